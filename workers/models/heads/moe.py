"""The routed head: an MLP each of whose linear maps is a layer of choice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from workers.contract import derive_seed
from workers.moe.growth.schedules import SCHEDULES, places
from workers.moe.layers import LAYERS, active
from workers.moe.perceptron import Activation, Between, Norm, Stack, check_hidden
from workers.moe.seeding import seeded
from workers.moe.walk import join
from workers.tables import choice, construct


class MoEHead(Stack):
    """Every linear map is a mixture-of-experts layer with its own router (DynamicMoE)."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the routed head."""

        kind: str = "moe"
        hidden: tuple[int, ...] = (256, 256)
        """Widths of the hidden layers."""
        layer: Any = choice(LAYERS, "moe")
        """What stands between two widths."""
        dense_last: bool = True
        """Keep the last map dense; a bottleneck needs clearly more outputs than experts."""
        schedule: Any = choice(SCHEDULES, "constant")
        """Experts per layer over depth; the model's number is that of its largest layer."""
        norm: Norm = "none"
        """``layer``: layer norm before each activation (arXiv 1607.06450)."""
        activation: Activation = "relu"
        """``crelu``: concatenated ReLU, of which the next layer reads two numbers a unit."""

        def __post_init__(self) -> None:
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
        between = Between(config.activation, config.norm)
        maps = between.maps([inputs, *config.hidden, outputs])
        routed = maps[:-1] if config.dense_last else maps
        layers: list[nn.Module] = []
        schedule = construct(SCHEDULES, config.schedule)
        standing = places(schedule, routed, partial(active, config.layer))
        for i, (place, sizes) in enumerate(zip(standing, routed, strict=True)):
            own = derive_seed(seed, "layer", i)
            layer = construct(LAYERS, config.layer, *sizes, experts, max_experts, own, place=place)
            layers.append(layer)
        if config.dense_last:
            with seeded(derive_seed(seed, "layer", len(routed))):
                layers.append(nn.Linear(*maps[-1]))
        join(layers)
        self.fill(layers, between, between.norms(config.hidden))
