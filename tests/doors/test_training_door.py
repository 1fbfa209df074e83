"""The door of learning rates, and lanes under all that the loop offers beside its defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.doors.lane import run_killed, run_lane
from tests.doors.routed_lane import both, routed_lane
from tests.two_workers import MASKED
from workers.supervised.learning_rates import LearningRate

HERE = "tests.doors.test_training_door"
STACK = "tests.unit.workers.supervised.stack:Stack"


class Staircase(LearningRate):
    """The rate falls by a factor after each part of the course."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(LearningRate.Config):
        factor: float = 0.5
        parts: int = 3

    def share(self, progress: float) -> float:
        return float(self.config.factor ** int(progress * self.config.parts))


def lane(**training: Any) -> dict[str, Any]:
    """The routed lane of the other doors, trained otherwise."""
    layer = {"kind": "moe", "selector": {"kind": "topk", "k": 2}, "losses": ["balance", "z"]}
    raw = routed_lane(layer)
    return raw | {"training": {"steps": 12, "intervals": 3, "batch": 16, **training}}


LANES: dict[str, dict[str, Any]] = {
    "all of it": {
        "accumulate": 4,
        "precision": "bfloat16",
        "warmup": 0.1,
        "learning_rate": {"kind": "cosine", "over": "stream"},
        "optimizer": {"kind": "adamw", "implementation": "fused"},
        "clip": 1.0,
    },
    "momentum": {
        "accumulate": 2,
        "precision": "bfloat16",
        "learning_rate": {"kind": "wsd", "shape": "sqrt"},
        "optimizer": {"kind": "sgd", "momentum": 0.9, "implementation": "fused"},
    },
    "anew": {"precision": "bfloat16", "fresh_optimizer": True, "accumulate": 2},
}


@pytest.mark.parametrize("over", ["stage", "stream"])
def test_a_learning_rate_goes_through_kills(tmp_path: Path, over: str) -> None:
    rate = {"kind": f"{HERE}:Staircase", "factor": 0.1, "over": over}
    found = both(tmp_path, lane(learning_rate=rate, warmup=0.1))
    rates = [told["metrics"]["learning_rate"] for told in found.intervals.values()]
    falling = [1e-3, 1e-4, 1e-5]
    expected = [r for r in falling for _ in range(2)] if over == "stream" else falling * 2
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("name", LANES)
def test_lanes_go_through_kills(tmp_path: Path, name: str) -> None:
    found = both(tmp_path, lane(**LANES[name]))
    assert [edit["kind"] for edit in found.edits] == ["grow"]


def test_a_stack_of_blocks_goes_through_kills(tmp_path: Path) -> None:
    """Activations computed again change nothing, killed or not."""
    layer = {"kind": "moe", "selector": {"kind": "topk", "k": 2, "noise": 0.3}, "losses": ["z"]}
    model = {"kind": STACK, "layer": layer, "experts": 2, "max_experts": 5}
    digests = []
    for again in (False, True):
        training = {**LANES["all of it"], "checkpoint_activations": again}
        raw = lane(**training) | {"model": model}
        digests.append(both(tmp_path / str(again), raw).intervals)
    plain, recomputed = (list(found.values()) for found in digests)  # in order of the journal
    assert [told["metrics"] for told in plain] == [told["metrics"] for told in recomputed]


def test_masks_and_phases_go_through_kills(tmp_path: Path) -> None:
    """Under float32 master weights, with an adaptive router, copies of experts, growth."""
    raw = {key: value for key, value in MASKED.items() if key != "checkpoint_every"}
    training = {**MASKED["training"], "batch": 16, "accumulate": 2, "precision": "bfloat16"}
    raw |= {"training": training, "lanes": [{}]}
    whole = run_lane(tmp_path / "whole", raw)
    assert run_killed(tmp_path / "killed", raw).essence == whole.essence
    assert {"grow", "refresh_mask", "set_phase", "adapt_router"} <= {e["kind"] for e in whole.edits}
