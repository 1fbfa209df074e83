"""A short lane whose hidden layer is given: three tasks, an expert more at each stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.doors.lane import Outcome, run_killed, run_lane


def routed_lane(layer: dict[str, Any] | str, **growth: Any) -> dict[str, Any]:
    """A raw config; ``growth``: more settings of the growth policy."""
    return {
        "stream": {
            "kind": "domains",
            "train_samples": 96,
            "test_samples": 40,
            "domains": [{"name": "turned", "rotate": 90.0}, {"name": "permuted", "permutation": 1}],
        },
        "model": {
            "experts": 2,
            "max_experts": 5,
            "backbone": {"kind": "mlp", "hidden": [24]},
            "head": {"kind": "moe", "hidden": [24], "layer": layer},
        },
        "training": {"epochs": 2, "intervals": 3, "batch": 16},
        "policies": {"growth": {"kind": "periodic", "add": 1, **growth}},
        "lanes": [{}],
    }


def both(folder: Path, raw: dict[str, Any]) -> Outcome:
    """The lane undisturbed, after it was found to be the same with losses."""
    whole = run_lane(folder / "whole", raw)
    killed = run_killed(folder / "killed", raw)
    assert killed.essence == whole.essence
    assert whole.edits, "the lane grew"
    return whole
