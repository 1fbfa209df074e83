"""Reservoir sampling: a uniform sample of the stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workers.methods.buffers.base import Buffer


class Reservoir(Buffer):
    """Every sample offered so far is kept with the same chance (Vitter 1985, algorithm R).

    Sample number i (from 0) of the stream goes to slot i while there is room, then to a slot drawn
    from 0 to i, if that is one of the buffer's: with chance ``size / (i + 1)``.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Buffer.Config):
        """No settings."""

        kind: str = "reservoir"

    def __init__(self, config: Config, size: int, generator: torch.Generator) -> None:
        super().__init__(config, size, generator)
        self.offered = 0

    def offer(self, label_N: Tensor, task: int) -> tuple[Tensor, Tensor]:
        count = len(label_N)
        position = np.arange(self.offered, self.offered + count)
        chance = torch.rand(count, generator=self.generator, dtype=torch.float64).numpy()
        slot = np.where(position < self.size, position, chance * (position + 1)).astype(np.int64)
        self.offered += count
        kept = np.flatnonzero(slot < self.size)
        last = np.full(self.size, -1)
        np.maximum.at(last, slot[kept], kept)  # a later sample replaces an earlier one
        slots = np.flatnonzero(last >= 0)
        return torch.from_numpy(slots), torch.from_numpy(last[slots])

    def state(self) -> dict[str, Tensor]:
        return {"seen": torch.tensor(self.offered)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.offered = int(state["seen"])
