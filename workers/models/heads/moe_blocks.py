"""The head of residual blocks: a linear projection, layers of one width, a linear map."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from workers.contract import derive_seed
from workers.moe.growth.schedules import SCHEDULES, places
from workers.moe.layers import LAYERS, ResidualLayer, active
from workers.moe.seeding import seeded
from workers.tables import choice, construct


class MoEBlocks(nn.Module):
    """Projection, then blocks ``h <- LayerNorm(h + MoE(h))``, then a linear map (DynaMoE).

    The model of arXiv 2603.01697, section 4: nothing stands between blocks, and all have one width.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Sizes of the blocks, and what they are."""

        kind: str = "moe_blocks"
        width: int = 128
        """Numbers of a sample between blocks."""
        depth: int = 4
        """Blocks."""
        layer: Any = field(default_factory=ResidualLayer.Config, metadata={"table": LAYERS})
        """What a block is."""
        schedule: Any = choice(SCHEDULES, "constant")
        """Experts per block over depth; the model's number is that of its largest block."""

        def __post_init__(self) -> None:
            if self.width < 1 or self.depth < 1:
                raise ValueError(
                    f"width and depth must be at least 1, got {self.width} and {self.depth}"
                )

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
        with seeded(derive_seed(seed, "projection")):
            self.projection = nn.Linear(inputs, config.width)
        maps = [(config.width, config.width)] * config.depth
        schedule = construct(SCHEDULES, config.schedule)
        self.blocks = nn.ModuleList(
            construct(
                LAYERS,
                config.layer,
                *maps[place.index],
                experts,
                max_experts,
                derive_seed(seed, "block", place.index),
                place=place,
            )
            for place in places(schedule, maps, partial(active, config.layer))
        )
        with seeded(derive_seed(seed, "output")):
            self.output = nn.Linear(config.width, outputs)

    @property
    def readout(self) -> nn.Module:
        """The linear map behind the last block."""
        return self.output

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        h = self.projection(x)
        for block in self.blocks:
            h = block(h)
        y: Tensor = self.output(h)
        return y
