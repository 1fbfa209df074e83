"""Layers of the table, and one from outside that holds a routed layer, through a whole lane."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.doors.routed_lane import both, routed_lane
from workers.moe import LAYERS
from workers.moe.growth.schedules import EVERYWHERE, Place
from workers.moe.layers import Layer
from workers.tables import choice, construct


class ScaledLayer(Layer):
    """Another layer whose output is multiplied by a learnt factor."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str
        inner: Any = choice(LAYERS, "moe")

    def __init__(
        self,
        config: Config,
        inputs: int,
        outputs: int,
        experts: int = 1,
        max_experts: int | None = None,
        seed: int = 0,
        *,
        place: Place = EVERYWHERE,
    ) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(outputs))
        self.inner = construct(
            LAYERS, config.inner, inputs, outputs, experts, max_experts, seed, place=place
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x) * self.factor
        return y


MOE = {"kind": "moe", "expert": {"kind": "bottleneck", "width": 6}}


@pytest.mark.parametrize(
    "layer",
    [
        {"kind": "tests.doors.test_layer_door:ScaledLayer", "inner": MOE},
        {**MOE, "kind": "chain", "rounds": 3, "selector": "topk"},
        {"kind": "residual", "inner": MOE},
    ],
    ids=["outside", "chain", "residual"],
)
def test_layers_go_through_a_lane(tmp_path: Path, layer: dict[str, Any]) -> None:
    both(tmp_path, routed_lane(layer))
