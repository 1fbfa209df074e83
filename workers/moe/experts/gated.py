"""Interim."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ops.expert_mlp import ACTIVATIONS
from workers.moe.experts.base import Expert


class GatedExpert(Expert):
    """Gated expert down(act(gate x) * up x)."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of a gated expert."""

        kind: str = "gated"
        width: int | None = None
        """Hidden units."""
        activation: Literal["silu", "gelu", "relu"] = "silu"
        """Function on the gate."""

    def __init__(self, config: Config, inputs: int, outputs: int, width: int) -> None:
        super().__init__(config, inputs, outputs, width)
        self.width, self.activation = width, config.activation
        a, b = 1 / math.sqrt(inputs), 1 / math.sqrt(width)
        self.gate_up = nn.Parameter(torch.empty(2 * width, inputs).uniform_(-a, a))
        self.down = nn.Parameter(torch.empty(outputs, width).uniform_(-b, b))

    def forward(self, x: Tensor) -> Tensor:
        gate, up = torch.nn.functional.linear(x, self.gate_up).chunk(2, -1)
        return torch.nn.functional.linear(ACTIVATIONS[self.activation][0](gate) * up, self.down)

    @staticmethod
    def width_for(config: Config, sizes: Any) -> int:
        return config.width or 64

    @torch.no_grad()
    def zero_output(self) -> None:
        self.down.zero_()
