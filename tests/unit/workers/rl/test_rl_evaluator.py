"""What an evaluation of an agent tells beside its scores; no Ray, a toy environment."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from workers import checkpoint as checkpoints
from workers.contract import CheckpointRef, EvaluationReport, LaneSpec
from workers.diagnostics import DIAGNOSTICS
from workers.models.actor_critic import ActorCritic
from workers.models.cores import GRU
from workers.moe.growth.surgery import arch
from workers.parsing import checked
from workers.rl import TRAININGS
from workers.rl.building import build_model, build_stream
from workers.rl.evaluator import RLEvaluator

TOY = {"kind": "tests.unit.workers.rl.toy:ToyStream"}
SMALL = {"num_envs": 8, "rollout": 16, "steps_per_stage": 256, "minibatches": 4}


def lane(model: ActorCritic.Config | None = None, **training: Any) -> LaneSpec:
    _, config = checked(TRAININGS, {"kind": "ppo", **SMALL, **training})
    model = model or ActorCritic.Config(encoder=16, hidden=(16, 16), experts=2)
    settings = {
        "stream": TOY,
        "model": asdict(model),
        "training": asdict(config),
        "method": {"kind": "finetune"},
    }
    return LaneSpec(lane="rl-s0", trainer="rl", method="finetune", seed=0, settings=settings)


def untrained(spec: LaneSpec, folder: Path) -> CheckpointRef:
    stream = build_stream(TOY, spec.seed)
    facts = stream.facts
    model = build_model(
        spec.settings["model"], facts.observation_shape, facts.actions, spec.seed, stream.layout
    )
    state = {"trainer": "rl", "settings_digest": spec.built_from, "arch": arch(model)}
    tensors = {"model": model.state_dict()}
    return checkpoints.write(str(folder / "c"), tensors, state, seq=0, stage=None)


def evaluated(spec: LaneSpec, folder: Path) -> EvaluationReport:
    stream = build_stream(TOY, spec.seed)
    return RLEvaluator().evaluate(spec, untrained(spec, folder), stream.tasks())


def names(figures: dict[str, float]) -> set[str]:
    return {name.split("/")[0] for name in figures}


@pytest.mark.parametrize("core", [{}, {"core": GRU.Config(size=6)}])
def test_an_agent_is_measured_by_the_same_diagnostics(core: dict[str, Any], tmp_path: Path) -> None:
    spec = lane(ActorCritic.Config(encoder=16, hidden=(16, 16), experts=2, **core))
    report = evaluated(spec, tmp_path)
    for figures in report.figures.values():
        told = names(figures)
        for name, cls in DIAGNOSTICS.items():
            assert (name in told) == (cls.cheap and cls.scope != "model"), name
        assert figures["episodes"] == 6
    assert {"specialisation", "weight_norm", "weight_distance"} <= names(report.model_figures)
    assert report.model_figures["weight_distance/all"] == 0.0, "untrained"
    assert evaluated(spec, tmp_path).figures == report.figures


def test_validation_episodes_are_others_than_those_of_the_test_part(tmp_path: Path) -> None:
    split = evaluated(lane(), tmp_path / "a")
    whole = evaluated(lane(validation_episodes=0), tmp_path / "b")
    assert len(split.validation) == len(split.scores) == 2
    assert whole.validation == []
    for score, validation, both in zip(split.scores, split.validation, whole.scores, strict=True):
        assert (6 * score + 2 * validation) / 8 == pytest.approx(both)
    few = evaluated(lane(eval_episodes=6), tmp_path / "c")
    assert (few.scores, few.validation) == (split.scores, split.validation)


def test_drift_is_told_on_the_first_observations_whatever_the_agent_does(tmp_path: Path) -> None:
    first = evaluated(lane(), tmp_path / "a").probes
    assert [len(rows) for rows in first["shift0"].values()] == [6, 6]
    assert evaluated(lane(eval_max_steps=1), tmp_path / "b").probes == first
