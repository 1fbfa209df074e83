"""The door of growth triggers: one from outside that says what speaks for growth, and no more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.policies import Evidence, Triggered, View, seen
from tests.doors.lane import run_killed, run_lane
from workers.contract import Json

KIND = "tests.doors.test_trigger_door:Hard"


class Hard(Triggered):
    """Grows while the training score stays low, each low interval counted."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Triggered.Config):
        """What is low, and how often it must have been."""

        low: float = 0.9
        often: int = 2
        signal: str = "train_score"

        @property
        def watched(self) -> tuple[str, ...]:
            return (self.signal,)

    config: Config

    def look(self, view: View, memory: Json) -> tuple[Evidence | None, Json]:
        score, times = seen(view, self.config.signal), memory or 0
        if score is None or score >= self.config.low:
            return None, times
        if times + 1 < self.config.often:
            return None, times + 1
        return Evidence("hard", {"train_score": score, "times": times + 1.0}), 0


GROWN: dict[str, Any] = {
    "stream": {"kind": "chunks", "chunks": 3, "cumulative": False, "train_samples": 300},
    "model": {"head": {"kind": "moe", "hidden": [32, 32]}},
    "training": {"epochs": 2, "intervals": 3, "batch": 64},
    "lanes": [{"method": "finetune"}],
}
WHEN = {"kind": "plateau", "window": 1, "least": 0.9, "cooldown": 1, "max_experts": 3}
LANES: dict[str, dict[str, Any]] = {
    "own": {"kind": KIND, "low": 1.0, "max_experts": 3},
    "jump": {"kind": "drift_detector", "signal": "loss", "keep": 12, "max_experts": 3,
              "direction": "any", "detector": {"kind": "jump", "z": 0.3, "warmup": 2}},
    "gradients": {"kind": "gradient_drift", "z": 0.01, "warmup": 2, "coherence": -1.0,
                  "max_experts": 3},
    "layer": {"kind": "routing_saturation", "share": 0.1, "patience": 1, "max_experts": 3,
              "layers": "gate_gradient_variance"},
    "trial": {"kind": "probe_experts", "when": WHEN, "trial": 1, "least": 1.0},
}  # fmt: skip


def grown(outcome: Any) -> list[str]:
    """Kinds of the edits, each of which tells why."""
    assert all(edit["cause"]["figures"] for edit in outcome.edits)
    return [edit["kind"] for edit in outcome.edits]


@pytest.mark.parametrize("name", ["jump", "gradients", "layer"])
def test_triggers_grow_lanes(tmp_path: Path, name: str) -> None:
    straight = run_lane(tmp_path, {**GROWN, "policies": {"growth": LANES[name]}})
    assert set(grown(straight)) == {"grow"}
    layers = {edit["layers"] for edit in straight.edits}
    assert (None in layers) == (name != "layer"), "one layer at a time, or all"


@pytest.mark.parametrize("name", ["own", "trial"])
def test_triggers_go_through_kills(tmp_path: Path, name: str) -> None:
    """Killed or not, a lane grows at the same times to the same bits."""
    config = {**GROWN, "policies": {"growth": LANES[name]}}
    straight = run_lane(tmp_path / "straight", config)
    kinds = grown(straight)
    assert kinds.count("grow") >= 1
    assert kinds.count("prune") == (kinds.count("grow") if name == "trial" else 0)
    assert run_killed(tmp_path / "killed", config).essence == straight.essence
