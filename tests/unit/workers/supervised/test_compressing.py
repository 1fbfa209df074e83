"""A trained lane's checkpoint with experts in few bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.config.file import check
from tests.doors.lane import run_lane
from workers import checkpoint, trainers

RAW: dict[str, Any] = {
    "stream": {"kind": "split", "dataset": "digits", "classes_per_task": 5},
    "model": {
        "experts": 4,
        "head": {
            "kind": "moe",
            "hidden": [24],
            "layer": {
                "selector": {"kind": "topk", "k": 2},
                "expert": {"kind": "bottleneck", "width": 16},
            },
        },
    },
    "training": {"epochs": 2, "intervals": 1, "batch": 32},
    "lanes": [{}],
}

VIEWS = [{"name": "turned", "rotate": 90.0}, {"name": "negative", "invert": True}]


def test_the_copy_is_smaller_and_scores_like_the_original(tmp_path: Path) -> None:
    run_lane(tmp_path / "run", RAW)
    (lane,) = check({"name": "door", **RAW}, "door").lanes
    folder = max((tmp_path / "run" / "checkpoints").rglob("000-*"))
    ref, task = checkpoint.describe(str(folder)), lane.tasks()[0]
    told = trainers.compress(lane.spec(), ref, task, str(tmp_path / "eight"), bits=8.0)
    assert abs(told["score"] - told["score_before"]) < 0.02
    few = trainers.compress(lane.spec(), ref, task, str(tmp_path / "few"), bits=2.5)
    assert few["checkpoint"]["bytes"] < 0.6 * few["bytes_before"]
    (bits,) = few["bits"].values()
    assert sum(bits.values()) <= 10
    assert {2, 3} <= set(bits.values())


def test_routers_that_must_be_told_domains_are_told_them(tmp_path: Path) -> None:
    stream = {"kind": "domains", "base": [], "domains": VIEWS, "order": "sequential"}
    router = {"kind": "oracle_domain"}
    head = {"kind": "moe", "hidden": [12], "layer": {"router": router, "expert": "bottleneck"}}
    raw = {
        "stream": {**stream, "domain_given": True, "train_samples": 64, "test_samples": 32},
        "model": {"experts": 2, "head": head},
        "training": {"steps": 2, "intervals": 1, "batch": 16},
        "lanes": [{}],
    }
    run_lane(tmp_path / "run", raw)
    (lane,) = check({"name": "door", **raw}, "door").lanes
    ref = checkpoint.describe(str(max((tmp_path / "run" / "checkpoints").rglob("001-*"))))
    task = lane.tasks()[1]
    told = trainers.compress(lane.spec(), ref, task, str(tmp_path / "copy"), bits=2.5)
    for bits in told["bits"].values():
        assert sorted(bits.values()) == [2, 3]
