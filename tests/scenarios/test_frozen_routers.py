"""Linear ground truths, routers that freeze: really trained, killed and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.doors.lane import run_killed, run_lane

CONFIG: dict[str, Any] = {
    "stream": {
        "kind": "linear_clusters",
        "clusters": 2,
        "tasks": 4,
        "dimensions": 8,
        "train_samples": 200,
        "test_samples": 64,
    },
    "model": {
        "experts": 3,
        "max_experts": 4,
        "head": {
            "kind": "moe",
            "hidden": [],
            "dense_last": False,
            "layer": {
                "kind": "moe",
                "selector": {"kind": "topk", "k": 1, "weights": "full"},
                "expert": "linear",
            },
        },
    },
    "training": {
        "steps": 160,
        "batch": 32,
        "intervals": 8,
        "optimizer": {"kind": "sgd", "lr": 0.1},
        "diagnostics": ["specialisation"],
    },
    "policies": {
        "growth": {"kind": "periodic", "every": 3},
        "freeze": {"kind": "freeze_routers", "explore": 0.25, "flips": 0.01},
    },
    "lanes": [{}],
}


def test_routers_find_the_experts_freeze_and_come_through_kills(tmp_path: Path) -> None:
    whole = run_lane(tmp_path / "whole", CONFIG)
    phases = [edit["phase"] for edit in whole.edits if edit["kind"] == "set_phase"]
    assert phases[:3] == ["routers frozen", "routers learn", "routers frozen"]
    scores = whole.matrix[-1]
    assert min(scores) > 0.9, "experts of linear maps answer both ground truths"
    told = whole.lane["stages"][-1]["model_figures"]["specialisation/head.layers.0"]
    assert told > 0.9, "each ground truth has experts of its own"
    assert run_killed(tmp_path / "killed", CONFIG).essence == whole.essence
