"""The plain layer: a linear map. Never grows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from workers.moe.growth.schedules import EVERYWHERE, Place
from workers.moe.layers.base import Layer
from workers.moe.seeding import seeded


class LinearLayer(Layer, nn.Linear):
    """One affine map W x + b, dense; never grows."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of a linear layer (none)."""

        kind: str = "linear"

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
        with seeded(seed):
            nn.Linear.__init__(self, inputs, outputs)
        self._seed = seed

    def draw_orthogonal(self, gain: float) -> None:
        """See ``Layer.draw_orthogonal``."""
        with seeded(self._seed):
            self.reset_parameters()
            nn.init.orthogonal_(self.weight, gain)
        nn.init.zeros_(self.bias)
