"""Door: a diagnostic from outside the product is measured in a whole lane and reported by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.doors.lane import Outcome, run_killed, run_lane
from workers.diagnostics import Diagnostic, Figures, Probe, Scope

OWN = f"{__name__}:LargestActivation"


class LargestActivation(Diagnostic):
    """Largest feature of each layer, in units of ``scale``."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Diagnostic.Config):
        scale: float = 1.0
        """What the figures are counted in."""

    unit: ClassVar[str] = "scale, from 0"
    source: ClassVar[str] = "this test"
    scope: ClassVar[Scope] = "layer"

    def figures(self, probe: Probe) -> Figures:
        return {
            layer: float(features.max()) / self.config.scale
            for layer, features in probe.activations.items()
        }


RAW: dict[str, Any] = {
    "stream": {"kind": "split", "dataset": "digits"},
    "training": {
        "epochs": 1,
        "intervals": 2,
        "diagnostics": ["cheap", OWN, {"kind": OWN, "scale": 2.0, "name": "halved"}],
    },
    "model": {"head": {"kind": "moe", "hidden": [16]}},
    "policies": {"growth": "periodic"},
    "lanes": [{"method": "finetune"}],
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_lane(tmp_path_factory.mktemp("whole"), RAW)


def test_it_is_in_the_report_by_its_name(undisturbed: Outcome) -> None:
    stages = undisturbed.lane["stages"]
    assert len(stages) == 5
    for stage in stages:
        figures = stage["figures"][stage["task"]]
        largest = figures["LargestActivation/head.layers.0"]
        assert largest > 0
        assert figures["halved/head.layers.0"] == largest / 2
        assert "dormant_ratio/head.layers.0" in figures
    grown = stages[-1]["figures"][stages[-1]["task"]]
    assert "load_cv/head.layers.0" in grown, "a layer with several experts"


def test_what_was_killed_measures_the_same(undisturbed: Outcome, tmp_path: Path) -> None:
    killed = run_killed(tmp_path, RAW)
    assert killed.essence == undisturbed.essence
    for one, other in zip(killed.lane["stages"], undisturbed.lane["stages"], strict=True):
        assert one["figures"] == other["figures"]
        assert one["model_figures"] == other["model_figures"]
