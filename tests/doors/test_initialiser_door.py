"""Initialisers by name with settings, and one from outside with settings of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.doors.routed_lane import both, routed_lane
from workers.moe.growth.initialisers import Initialiser


class Scaled(Initialiser):
    """The default draw, its parameters multiplied by a factor."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str
        factor: float = 1.0

    @torch.no_grad()
    def apply(self, layer: Any, expert: int, parent: int | None) -> None:
        for parameter in layer.expert(expert).parameters():
            parameter.mul_(self.config.factor)


@pytest.mark.parametrize(
    "initialiser",
    [
        {"kind": "tests.doors.test_initialiser_door:Scaled", "factor": 0.1},
        {"kind": "clone_noise", "scale": 0.5},
        {"kind": "logit_offset", "offset": 3.0, "steps": 5},
    ],
)
def test_initialisers_with_settings_go_through_a_lane(
    tmp_path: Path, initialiser: dict[str, Any]
) -> None:
    layer = {"kind": "moe", "expert": {"kind": "bottleneck", "width": 6}}
    whole = both(tmp_path, routed_lane(layer, initialiser=initialiser))
    assert [edit["initialiser"] for edit in whole.edits] == [initialiser] * len(whole.edits)
