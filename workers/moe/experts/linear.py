"""The linear expert: one affine map. Knows nothing of routing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


class LinearExpert(nn.Module):
    """Affine expert W x + b of the layer's full size, so parameters grow with every expert."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of a linear expert (none)."""

        kind: str = "linear"

    def __init__(self, config: Config, inputs: int, outputs: int, width: int = 0) -> None:
        super().__init__()
        self.width = 0
        self.up = nn.Linear(inputs, outputs)

    @staticmethod
    def width_for(config: Config, inputs: int, outputs: int, experts: int) -> int:
        """0: a linear expert has no hidden units."""
        return 0

    def tensors(self) -> tuple[Tensor, ...]:
        """Weight [O, D] and bias [O]."""
        return self.up.weight, self.up.bias

    @torch.no_grad()
    def zero_output(self) -> None:
        """Make the expert answer 0 to everything."""
        self.up.weight.zero_()
        self.up.bias.zero_()
