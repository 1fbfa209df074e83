"""The bottleneck expert: two layers with a narrow middle. Knows nothing of routing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ops.expert_mlp import ACTIVATIONS
from workers.moe.experts.base import Expert, Kernel
from workers.moe.experts.feed_forward import FeedForward, linear_map
from workers.moe.experts.mixture import Packed
from workers.moe.experts.narrowing import ridge, strongest
from workers.moe.growth.budget import Size, shared_width


class Bottleneck(Expert):
    """Two-layer expert V act(U x + b) + c whose width keeps the layer's parameter budget."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of a bottleneck expert."""

        kind: str = "bottleneck"
        width: int | None = None
        """Hidden units of one expert; None = what the dense layer's budget allows."""
        activation: Literal["relu", "gelu", "silu"] = "relu"
        """Function on the hidden units."""

        def __post_init__(self) -> None:
            if self.width is not None and self.width < 1:
                raise ValueError(f"width must be at least 1, got {self.width}")

    narrows: ClassVar[bool] = True

    def __init__(self, config: Config, inputs: int, outputs: int, width: int) -> None:
        super().__init__(config, inputs, outputs, width)
        self.width, self.activation = width, config.activation
        self.up = nn.Linear(inputs, width)
        self.down = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        y: Tensor = self.down(self._hidden(x))
        return y

    def _hidden(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.activation][0](self.up(x))

    @staticmethod
    def width_for(config: Config, sizes: Sequence[Size]) -> int:
        """The configured width, or the largest that the layers' budget allows."""
        return config.width or shared_width(sizes)

    @classmethod
    def latent_form(cls, config: Config, rank: int) -> Any:
        """See ``Expert.latent_form``; a subclass may compute anything and says so itself."""
        from workers.moe.experts.shared_latent import SharedLatentExpert

        if cls is not Bottleneck:
            return None
        form = SharedLatentExpert.Config
        return form(rank=rank, width=config.width, activation=config.activation)

    @classmethod
    def packed(cls, experts: Sequence[Any]) -> Kernel | None:
        """All of them as one kernel, where they share an activation; widths may differ."""
        activation = experts[0].activation
        if any(expert.activation != activation for expert in experts):
            return None
        tensors = [(e.up.weight, e.up.bias, e.down.weight, e.down.bias) for e in experts]
        return Packed(tensors, activation)

    def feed_forward(self) -> FeedForward | None:
        """See ``Expert.feed_forward``."""
        return FeedForward((linear_map(self.up), linear_map(self.down)), self.activation)

    @torch.no_grad()
    def zero_output(self) -> None:
        """Set the output map to 0, leaving the hidden units as they are."""
        self.down.weight.zero_()
        self.down.bias.zero_()

    @torch.no_grad()
    def narrow(self, width: int, x_TD: Tensor) -> dict[str, tuple[int, Tensor]]:
        """Keep the ``width`` hidden units that matter most on ``x`` and refit the output map.

        Score of unit j: ``|U_j| |V_j| mean_x |act(u_j x + b_j)|``; V is refitted by ridge
        regression to the hidden response of the full expert. Units stay in their order.
        """
        hidden_TH = self._hidden(x_TD)
        size_H = self.up.weight.norm(dim=1) * self.down.weight.norm(dim=0)
        kept = strongest(size_H, hidden_TH, width)
        wanted_TO = hidden_TH @ self.down.weight.t()
        self.down.weight = nn.Parameter(ridge(hidden_TH[:, kept], wanted_TO))
        self.up.weight = nn.Parameter(self.up.weight[kept].clone())
        self.up.bias = nn.Parameter(self.up.bias[kept].clone())
        self.up.out_features = self.down.in_features = self.width = width
        return {"up.weight": (0, kept), "up.bias": (0, kept), "down.weight": (1, kept)}
