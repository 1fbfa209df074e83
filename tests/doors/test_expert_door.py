"""An expert from outside: three matrices and a gate, which no kernel knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn
from torch.nn import functional

from tests.doors.routed_lane import both, routed_lane
from workers.moe.experts import Expert
from workers.moe.growth.budget import Size


class GatedExpert(Expert):
    """W3 (silu(W1 x) * W2 x), without biases (SwiGLU, arXiv 2002.05202)."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str
        width: int = 7

    def __init__(self, config: Config, inputs: int, outputs: int, width: int) -> None:
        super().__init__(config, inputs, outputs, width)
        self.width = width
        self.gate = nn.Linear(inputs, width, bias=False)
        self.inner = nn.Linear(inputs, width, bias=False)
        self.outer = nn.Linear(width, outputs, bias=False)

    @staticmethod
    def width_for(config: Any, sizes: Sequence[Size]) -> int:
        return int(config.width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.outer(functional.silu(self.gate(x)) * self.inner(x))
        return y


KIND = "tests.doors.test_expert_door:GatedExpert"


@pytest.mark.parametrize(
    "layer",
    [
        {"expert": {"kind": KIND}},
        {
            "expert": {"kind": KIND, "width": 5},
            "more_experts": [{"kind": "bottleneck", "width": 3}],
            "selector": {"kind": "topk", "k": 2},
            "shared": 2,
            "shared_experts": [{"kind": KIND, "width": 3}, "depthwise"],
            "shared_gate": "sigmoid",
        },
        {"expert": {"kind": "shared_latent", "rank": 5}, "selector": "topk"},
    ],
    ids=["dense", "two forms, top-2, two shared", "a part in common"],
)
def test_experts_of_other_tensors_go_through_a_lane(tmp_path: Path, layer: dict[str, Any]) -> None:
    both(tmp_path, routed_lane({"kind": "moe", **layer}, initialiser="clone_noise"))
