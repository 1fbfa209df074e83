"""The gated expert of language models: gate, value and output map. Knows nothing of routing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ops.expert_mlp import ACTIVATIONS
from workers.moe.experts.base import Expert
from workers.moe.experts.feed_forward import FeedForward
from workers.moe.experts.mixture import PackedGated
from workers.moe.experts.narrowing import ridge, strongest
from workers.moe.growth.budget import Size, shared_width


class GatedExpert(Expert):
    """Gated expert V (act(G x) * (U x)), SwiGLU with silu (GLU variants, arXiv 2002.05202).

    ``gate_up`` [2 H, D] holds G above U and ``down`` [O, H] is V, as the fused tensors of Hugging
    Face's mixtures hold each of their experts. No biases.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of a gated expert."""

        kind: str = "gated"
        width: int | None = None
        """Hidden units of one expert; None = what the dense layer's budget allows."""
        activation: Literal["silu", "gelu", "relu"] = "silu"
        """Function on the gates."""

        def __post_init__(self) -> None:
            if self.width is not None and self.width < 1:
                raise ValueError(f"width must be at least 1, got {self.width}")

    narrows: ClassVar[bool] = True

    def __init__(self, config: Config, inputs: int, outputs: int, width: int) -> None:
        super().__init__(config, inputs, outputs, width)
        self.width, self.activation = width, config.activation
        self.gate_up = nn.Parameter(torch.empty(2 * width, inputs))
        self.down = nn.Parameter(torch.empty(outputs, width))
        for weight in (self.gate_up, self.down):
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))  # as nn.Linear draws

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return functional.linear(self._hidden(x), self.down)

    def _hidden(self, x: Tensor) -> Tensor:
        gate, value = functional.linear(x, self.gate_up).chunk(2, -1)
        return ACTIVATIONS[self.activation][0](gate) * value

    @staticmethod
    def width_for(config: Config, sizes: Sequence[Size]) -> int:
        """The configured width, or the largest that the layers' budget allows."""
        return config.width or shared_width(sizes, input_maps=2)

    @classmethod
    def packed(cls, experts: Sequence[Any]) -> PackedGated | None:
        """All of them as one kernel, where they share an activation; widths may differ."""
        activation = experts[0].activation
        if any(expert.activation != activation for expert in experts):
            return None
        return PackedGated([e.gate_up for e in experts], [e.down for e in experts], activation)

    def feed_forward(self) -> FeedForward:
        """See ``Expert.feed_forward``."""
        maps = ((self.gate_up, None), (self.down, None))
        return FeedForward(maps, self.activation, gated=True)

    @torch.no_grad()
    def zero_output(self) -> None:
        """Set the output map to 0, leaving the hidden units as they are."""
        self.down.zero_()

    @torch.no_grad()
    def narrow(self, width: int, x_TD: Tensor) -> dict[str, tuple[int, Tensor]]:
        """Keep the ``width`` hidden units that matter most on ``x`` and refit the output map.

        Score of unit j: ``|G_j| |U_j| |V_j| mean_x |act(g_j x) u_j x|``; V is refitted by ridge
        regression to the response of the full expert. Units stay in their order.
        """
        hidden_TH = self._hidden(x_TD)
        gate_H, value_H = self.gate_up.norm(dim=1).chunk(2)
        kept = strongest(gate_H * value_H * self.down.norm(dim=0), hidden_TH, width)
        rows = torch.cat([kept, kept + self.width])
        self.down = nn.Parameter(ridge(hidden_TH[:, kept], hidden_TH @ self.down.t()))
        self.gate_up = nn.Parameter(self.gate_up[rows].clone())
        self.width = width
        return {"gate_up": (0, rows), "down": (1, kept)}
