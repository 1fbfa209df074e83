"""The residual layer: another layer with its input added to its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from workers.contract import derive_seed
from workers.moe.growth.schedules import EVERYWHERE, Place
from workers.moe.layers.base import LAYERS, Layer, active
from workers.moe.seeding import seeded
from workers.tables import choice, construct


class ResidualLayer(Layer):
    """x + inner(x), with layer norm if wanted: LayerNorm(x + MoE(x)) as in DynaMoE (2603.01697).

    Where inputs and outputs differ in number, x passes a linear map without bias (projection
    shortcut, arXiv 1512.03385).
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of a residual layer."""

        kind: str = "residual"
        inner: Any = choice(LAYERS, "moe")
        """The layer whose output is added to the input."""
        norm: bool = True
        """Normalise the sum (layer norm)."""

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
        self.inner = construct(
            LAYERS, config.inner, inputs, outputs, experts, max_experts, seed, place=place
        )
        with seeded(derive_seed(seed, "shortcut")):
            same = inputs == outputs
            self.shortcut = nn.Identity() if same else nn.Linear(inputs, outputs, bias=False)
        self.norm = nn.LayerNorm(outputs) if config.norm else nn.Identity()

    @classmethod
    def active(cls, config: Any, experts: int) -> float:
        """See ``Layer.active``; of the inner layer."""
        return active(config.inner, experts)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        y: Tensor = self.norm(self.shortcut(x) + self.inner(x))
        return y

    def draw_orthogonal(self, gain: float) -> None:
        """See ``Layer.draw_orthogonal``; for the inner layer."""
        self.inner.draw_orthogonal(gain)
