"""Methods and edits against loss of plasticity in whole lanes: killed, growing, by two workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.events import IntervalDone
from tests.doors.lane import run_killed, run_lane
from tests.scenarios.test_two_workers import run
from tests.two_workers import essence, of

STREAM = {"kind": "random_labels", "dataset": "digits", "train_samples": 110, "tasks": 3}
METHODS: list[dict[str, Any]] = [
    {"kind": "l2_init", "strength": 0.01},
    {"kind": "hare_tortoise", "momentum": 0.9, "every": 5},
    {"kind": "continual_backprop", "replacement": 0.02, "maturity": 4},
    {"kind": "self_normalized_resets", "rejection": 0.01},
]
EDITS: dict[str, Any] = {
    "growth": "periodic",
    "redo": {"kind": "redo", "tau": 0.3},
    "shrink": {"kind": "shrink_perturb", "shrink": 0.7},
    "tail": {"kind": "reset", "every": 2, "parts": ["head.layers.1"]},
}


def named(method: dict[str, Any]) -> str:
    return str(method["kind"])


def test_edits_and_a_method_that_follows_them_go_through_kills(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "stream": STREAM,
        "model": {"head": {"kind": "moe", "hidden": [16]}},
        "training": {"epochs": 3, "intervals": 3, "batch": 16, "clip": 1.0},
        "policies": EDITS,
        "lanes": [{"method": METHODS[2]}],
    }
    straight = run_lane(tmp_path / "straight", config)
    kinds = [edit["kind"] for edit in straight.edits]
    assert kinds.count("recycle_dormant") == 3 * 3 - 1
    assert (kinds.count("shrink_perturb"), kinds.count("reset")) == (2, 1)
    recycled = [edit["figures"] for edit in straight.edits if edit["kind"] == "recycle_dormant"]
    assert any(recycled), "it would show nothing otherwise"
    assert straight.lane["trainability"]["train.last"] > 0
    assert run_killed(tmp_path / "killed", config).essence == straight.essence


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_two_workers_learn_what_one_learns(tmp_path: Path, method: dict[str, Any]) -> None:
    """Up to rounding, of a plain gradient step; both hold the same bits, or the run stops."""
    settings: dict[str, Any] = {
        "stream": STREAM,
        "model": {"head": {"kind": "moe", "hidden": [16]}},
        "training": {
            "epochs": 2,
            "intervals": 2,
            "batch": 16,
            "optimizer": {"kind": "sgd", "lr": 0.1},
        },
        "policies": {"growth": "periodic", "redo": {"kind": "redo", "tau": 0.3}},
        "lanes": [{"method": method}],
    }
    alone, pair = (run(tmp_path / str(n), settings, workers=n) for n in (1, 2))
    losses = [[e.report.metrics["loss"] for e in of(ev, IntervalDone)] for ev in (alone, pair)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    rows = [essence(events)[2] for events in (alone, pair)]
    for index, scores in rows[0].items():
        assert rows[1][index] == pytest.approx(scores, abs=0.02)
