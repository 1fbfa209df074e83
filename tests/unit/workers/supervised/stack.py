"""A model of blocks for tests: dropout, running statistics and routed experts in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers.contract import derive_seed
from workers.models import Model
from workers.moe import LAYERS
from workers.moe.seeding import seeded
from workers.tables import choice, construct


class Block(nn.Module):
    """x + layer(dropout(norm(x))) with the mean of what it read kept in a buffer."""

    mean: Tensor

    def __init__(self, layer: Any, width: int, experts: Any, seed: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(dropout)
        self.layer = construct(LAYERS, layer, width, width, *experts, seed)
        self.register_buffer("mean", torch.zeros(width))

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.mean = 0.9 * self.mean + 0.1 * x.detach().float().mean(0)
        y: Tensor = self.layer(self.dropout(self.norm(x) + self.mean.to(x)))
        return x + scale * y


class Stack(Model):
    """Blocks between two linear maps."""

    capabilities = frozenset({"labels"})
    has_blocks = True

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str = f"{__name__}:Stack"
        width: int = 24
        depth: int = 3
        dropout: float = 0.2
        layer: Any = choice(LAYERS, "moe")
        experts: int = 3
        max_experts: int | None = 6

    def __init__(self, config: Config, input_shape: Any, outputs: int, seed: int) -> None:
        super().__init__()
        width, experts = config.width, (config.experts, config.max_experts)
        inputs = torch.Size(input_shape).numel()
        with seeded(seed):
            self.first, self.last = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.blocks = nn.ModuleList(
            Block(config.layer, width, experts, derive_seed(seed, i), config.dropout)
            for i in range(config.depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        for block in self.blocks:
            x = block(x, scale=0.5)
        y: Tensor = self.last(x)
        return y
