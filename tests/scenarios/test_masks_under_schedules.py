"""Masks where layers have different numbers of experts, really trained: growth gives some none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.doors.lane import run_lane

NAMES = ("upright", "turned", "flipped")
BASE: dict[str, Any] = {
    "stream": {
        "kind": "domains",
        "train_samples": 100,
        "test_samples": 40,
        "base": [],
        "order": "sequential",
        "domains": [{"name": name, "rotate": 90.0 * i} for i, name in enumerate(NAMES)],
    },
    "model": {
        "experts": 2,
        "head": {
            "kind": "moe",
            "hidden": [24, 24],
            "schedule": "descending",
            "layer": {
                "selector": {"kind": "topk", "k": 1, "weights": "full"},
                "expert": {"kind": "bottleneck", "width": 4},
            },
        },
    },
    "training": {"epochs": 2, "intervals": 4, "batch": 16},
    "lanes": [{}],
}
CLAIM = {"kind": "usage_masks", "sharing": "claim", "threshold": 0.01}
FIXED = {"kind": "fixed_masks", "experts": {"upright": [0], "turned": [2], "flipped": [3]}}


@pytest.mark.parametrize("masks", [CLAIM, FIXED], ids=["claim", "fixed"])
def test_masks_hold_in_layers_that_do_not_grow(tmp_path: Path, masks: dict[str, Any]) -> None:
    """It used to plan and to stop in mid-stream: a domain had no expert in the small layer."""
    told = run_lane(tmp_path, {**BASE, "policies": {"growth": "periodic", "masks": masks}})
    grown = [edit for edit in told.edits if edit["kind"] == "grow"]
    assert len(grown) == 2
    counts = [{layer["experts"] for layer in edit["after"]["layers"].values()} for edit in grown]
    assert counts == [{1, 3}, {1, 4}], "the last layer keeps its one expert"
    assert any(edit["kind"] == "refresh_mask" for edit in told.edits)
