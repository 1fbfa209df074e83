"""The linear expert: one affine map. Knows nothing of routing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers.moe.experts.base import Expert
from workers.moe.experts.feed_forward import FeedForward, linear_map
from workers.moe.experts.mixture import Packed


class LinearExpert(Expert):
    """Affine expert W x + b of the layer's full size, so parameters grow with every expert."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of a linear expert (none)."""

        kind: str = "linear"

    def __init__(self, config: Config, inputs: int, outputs: int, width: int = 0) -> None:
        super().__init__(config, inputs, outputs, width)
        self.up = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        y: Tensor = self.up(x)
        return y

    @classmethod
    def packed(cls, experts: Sequence[Any]) -> Packed:
        """All of them as one kernel."""
        return Packed([(expert.up.weight, expert.up.bias) for expert in experts])

    def feed_forward(self) -> FeedForward:
        """See ``Expert.feed_forward``."""
        return FeedForward((linear_map(self.up),))

    @torch.no_grad()
    def zero_output(self) -> None:
        """Set weight and bias to 0."""
        self.up.weight.zero_()
        self.up.bias.zero_()
