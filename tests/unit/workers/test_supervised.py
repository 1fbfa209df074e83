"""The supervised loop in-process: deterministic, resumable at any interval, growing."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.config.run import RunConfig
from orchestrator.core.transitions import stage_spec
from tests.commands import ROOT
from tests.fakes import tiny
from workers import checkpoint
from workers.contract import CheckpointRef, InputError, StageSpec
from workers.edits import Cause, Grow
from workers.methods import Method
from workers.supervised.evaluator import SupervisedEvaluator
from workers.supervised.trainer import SupervisedTrainer

GROWING = {
    "policies": {"growth": {"kind": "periodic"}},
    "training": {"epochs": 3, "intervals": 3, "clip": 1.0, "warmup": 0.2},
    "lanes": [{"method": {"kind": "replay", "buffer": 60, "batch": 16}}],
}


def stages(config: RunConfig) -> list[StageSpec]:
    plan = config.lanes[0].plan()
    found: list[StageSpec] = []
    for index in range(len(plan.tasks)):
        found.append(stage_spec(plan, index, found[-1].id if found else None))
    return found


def grown(stage: StageSpec) -> Grow:
    cause = Cause(policy="test", trigger="test")
    return Grow(
        id=f"{stage.id}-0",
        stage=stage.id,
        after_interval=0,
        revision=1,
        experts=2,
        seed=7,
        cause=cause,
    )


def train(
    config: RunConfig, folder: Path, restart_after: tuple[int, int] | None = None
) -> list[CheckpointRef]:
    """Two stages with a growth between; optionally a fresh trainer after (stage, interval)."""
    lane = config.lanes[0].spec()
    trainer = SupervisedTrainer()
    trainer.open(lane, None)
    refs, seq = [trainer.save(str(folder / "initial"), 1)], 1
    for stage in stages(config)[:2]:
        trainer.start(stage)
        if stage.index == 1:
            trainer.apply(grown(stage))
        for n in range(1, stage.intervals + 1):
            trainer.run_interval(n, revision=stage.index)
            seq += 1
            if restart_after == (stage.index, n) and n < stage.intervals:
                ref = trainer.save(str(folder / "middle"), seq)
                trainer = SupervisedTrainer()
                assert trainer.open(lane, ref).seq == seq
        refs.append(trainer.save(str(folder / stage.id), seq))
    return refs


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return digests(train(tiny(**GROWING), tmp_path_factory.mktemp("straight")))


def digests(refs: list[CheckpointRef]) -> list[str]:
    return [ref.digest for ref in refs]


def test_same_config_same_bits(straight: list[str], tmp_path: Path) -> None:
    assert digests(train(tiny(**GROWING), tmp_path)) == straight


@pytest.mark.parametrize("moment", [(0, 1), (0, 2), (1, 1), (1, 2)])
def test_restart_in_mid_stage_gives_the_same_bits(
    straight: list[str], tmp_path: Path, moment: tuple[int, int]
) -> None:
    assert digests(train(tiny(**GROWING), tmp_path, moment)) == straight


def test_seed_and_settings_matter(straight: list[str], tmp_path: Path) -> None:
    other = tiny(**{**GROWING, "seed": 1})
    assert digests(train(other, tmp_path))[0] != straight[0]


def test_evaluator_scores_what_was_learnt(tmp_path: Path) -> None:
    config = tiny(training={"epochs": 20, "intervals": 2})
    refs = train(config, tmp_path)
    lane = config.lanes[0]
    report = SupervisedEvaluator().evaluate(lane.spec(), refs[-1], lane.tasks())
    assert len(report.scores) == 5
    assert report.scores[1] > 0.9, "the task just learnt"
    assert max(report.scores[2:]) == 0.0, "tasks not seen"


def test_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    ref = train(tiny(**GROWING), tmp_path)[-1]
    with pytest.raises(InputError, match="other settings"):
        SupervisedTrainer().open(tiny().lanes[0].spec(), ref)
    alien = checkpoint.write(
        str(tmp_path / "alien"), {"model": {}}, {"trainer": "rl"}, seq=0, stage=None
    )
    with pytest.raises(InputError, match="trainer 'rl'"):
        SupervisedTrainer().open(tiny().lanes[0].spec(), alien)


def test_more_intervals_than_steps_is_refused() -> None:
    config = tiny(training={"steps": 2, "intervals": 3})
    trainer = SupervisedTrainer()
    trainer.open(config.lanes[0].spec(), None)
    with pytest.raises(InputError, match="2 gradient steps cannot be split into 3 intervals"):
        trainer.start(stages(config)[0])


@pytest.mark.parametrize("strict", [True, False])
def test_strict_ops_refuses_to_train_on_the_reference(strict: bool) -> None:
    """In a process of its own, where the compiled kernels are switched off."""
    program = (
        "from tests.fakes import tiny; from workers.supervised.trainer import SupervisedTrainer; "
        f"lane = tiny(strict_ops={strict}).lanes[0].spec(); "
        "print(SupervisedTrainer().open(lane, None).backend)"
    )
    env = {**os.environ, "GROWSTAGE_OPS": "off"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if strict:
        assert "InputError: strict_ops = true" in done.stderr
    else:
        assert done.stdout.strip() == "reference", done.stderr


class Doubling(Method):
    """Trains on every sample twice, and does not say that samples are not the task's own."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        kind: str = "doubling"

    def training_data(self, current, past):
        return current.train_x.repeat(2, 1, 1, 1), current.train_y.repeat(2)


def test_samples_whose_domain_is_unknown_are_refused() -> None:
    config = tiny(
        model={"head": {"kind": "moe", "hidden": [8]}},
        lanes=[{"method": {"kind": f"{__name__}:Doubling"}}],
        stream={"kind": "permuted", "dataset": "digits", "tasks": 2},
    )
    trainer = SupervisedTrainer()
    trainer.open(config.lanes[0].spec(), None)
    with pytest.raises(InputError, match="mixes = True"):
        trainer.start(stages(config)[0])
