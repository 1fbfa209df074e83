"""The routed head: an MLP each of whose linear maps is a mixture-of-experts layer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from workers.contract import derive_seed
from workers.models.heads.mlp import check_hidden
from workers.moe.growth.schedules import SCHEDULES, Place
from workers.moe.layer import MoELayer
from workers.moe.seeding import seeded
from workers.tables import choice, construct


class MoEHead(nn.Module):
    """Every linear map is a mixture-of-experts layer with its own router (DynamicMoE)."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(MoELayer.Config):
        """Settings of the routed head."""

        kind: str = "moe"
        hidden: tuple[int, ...] = (256, 256)
        """Widths of the hidden layers."""
        dense_last: bool = True
        """Keep the last map dense; a bottleneck needs clearly more outputs than experts."""
        schedule: Any = choice(SCHEDULES, "uniform")
        """Experts per layer over depth; the model's number is that of its largest layer."""

        def __post_init__(self) -> None:
            MoELayer.Config.__post_init__(self)
            check_hidden(self.hidden)

    def __init__(
        self,
        config: Config,
        inputs: int,
        outputs: int,
        experts: int = 1,
        max_experts: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = [inputs, *config.hidden, outputs]
        schedule = construct(SCHEDULES, config.schedule)
        routed = len(sizes) - 1 - config.dense_last
        self.layers = nn.ModuleList()
        for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            layer_seed = derive_seed(seed, "layer", i)
            if i < routed:
                place = Place(schedule, i, routed)
                layer: nn.Module = MoELayer(
                    config, fan_in, fan_out, experts, max_experts, layer_seed, place=place
                )
            else:
                with seeded(layer_seed):
                    layer = nn.Linear(fan_in, fan_out)
            self.layers.append(layer)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        y: Tensor = last(x)
        return y
