"""Inference policies in lanes that act: whole episodes of a toy environment, no Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.workers.rl.test_rl_evaluator import evaluated, lane, untrained
from workers.contract import InputError, LaneSpec
from workers.inference import Forward
from workers.inference.k_sweep import KSweep
from workers.inference.router_bias import RouterBias
from workers.models.actor_critic import ActorCritic
from workers.models.cores import GRU
from workers.rl.building import build_stream
from workers.rl.inference import infer

SMALL = {"encoder": 16, "hidden": (16, 16), "experts": 3}
CORES: list[dict[str, Any]] = [{}, {"core": GRU.Config(size=6)}]


def compared(spec: LaneSpec, folder: Path, **policy: Any) -> Any:
    tasks = build_stream(spec.settings["stream"], spec.seed).tasks()
    return infer(spec, untrained(spec, folder), tasks, policy)


@pytest.mark.parametrize("core", CORES)
def test_the_plain_agent_plays_the_evaluator_s_episodes(core: Any, tmp_path: Path) -> None:
    spec = lane(ActorCritic.Config(**SMALL, **core))
    found = compared(spec, tmp_path, kind="plain")
    assert found.scores == found.plain == evaluated(spec, tmp_path).scores


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize(
    "policy",
    [
        {"kind": "k_sweep"},
        {"kind": "expert_gain", "experts": {"layers.0": (0, 1)}},
        {"kind": "router_bias", "lr": 0.5},
        {"kind": "self_contrast", "b": 2.0},
    ],
)
def test_every_entry_plays(core: Any, policy: Any, tmp_path: Path) -> None:
    spec = lane(ActorCritic.Config(**SMALL, **core))
    found = compared(spec, tmp_path, **policy)
    assert found == compared(spec, tmp_path, **policy)
    assert all(figures["episodes"] == 6 for figures in found.figures)
    if policy["kind"] == "k_sweep":
        assert list(found.choices) == ["1", "2", "3"]
        assert found.validation == found.choices[str(found.chosen[0])]
    if policy["kind"] == "router_bias":
        assert found.told["delta/layers.0"] >= 0


def test_k_is_constant_through_every_episode(tmp_path: Path, monkeypatch: Any) -> None:
    used: list[int | None] = []
    own = KSweep.answer

    def answer(self: KSweep, forward: Forward, x: Tensor) -> Tensor:
        used.append(self._k)
        return own(self, forward, x)

    monkeypatch.setattr(KSweep, "answer", answer)
    spec = lane(ActorCritic.Config(**SMALL))
    found = compared(spec, tmp_path, kind="k_sweep")
    steps = 10  # of every episode
    parts = [used[start : start + steps] for start in range(0, len(used), steps)]
    assert [set(part) for part in parts] == [{1}, {1}, {2}, {2}, {3}, {3}] + [{found.chosen[0]}] * 2


def test_a_bias_ends_with_its_episode(tmp_path: Path, monkeypatch: Any) -> None:
    seen: list[float] = []
    own = RouterBias.learn

    def learn(self: RouterBias, turn: Any) -> None:
        own(self, turn)
        left = torch.stack([delta.detach().abs().sum() for delta in self.delta.values()]).sum()
        seen.append(float(left))
        assert bool(turn.over.all()) == (float(left) == 0.0)

    monkeypatch.setattr(RouterBias, "learn", learn)
    compared(lane(ActorCritic.Config(**SMALL)), tmp_path, kind="router_bias")
    assert len(seen) == 20, "two tasks, ten steps each"


def test_what_an_agent_cannot_do_is_refused(tmp_path: Path) -> None:
    spec = lane(ActorCritic.Config(**SMALL))
    with pytest.raises(InputError, match="answers for labels, tokens, and the lane's model"):
        compared(spec, tmp_path, kind="neighbour_rerouting")
    apart = lane(ActorCritic.Config(**SMALL, separate=True))
    with pytest.raises(InputError, match="separate = false"):
        compared(apart, tmp_path, kind="router_bias")
    alone = lane(ActorCritic.Config(**{**SMALL, "experts": 1}))
    with pytest.raises(InputError, match="no router to steer"):
        compared(alone, tmp_path, kind="k_sweep")
    unseen = lane(ActorCritic.Config(**SMALL), validation_episodes=0)
    with pytest.raises(InputError, match="has none; give the policy what it would choose"):
        compared(unseen, tmp_path, kind="k_sweep")


def test_experts_are_ranked_by_validation_episodes(tmp_path: Path) -> None:
    spec = lane(ActorCritic.Config(**SMALL))
    name = build_stream(spec.settings["stream"], spec.seed).tasks()[0].name
    found = compared(spec, tmp_path, kind="expert_gain", on=name, top=2)
    assert len(found.told) == 2


def test_floors_are_events_of_an_agent(tmp_path: Path) -> None:
    spec = lane(ActorCritic.Config(**SMALL), diagnostics=["expert_event_npmi", "expert_ablation"])
    figures = evaluated(spec, tmp_path).model_figures
    events = {name.split("/")[2] for name in figures if name.startswith("expert_event_npmi/")}
    assert {"floor0", "floor1"} <= events
    changes = [v for name, v in figures.items() if name.startswith("expert_ablation/")]
    assert changes
    assert all(-1.0 <= value <= 1.0 for value in changes)
