"""Experience replay from a reservoir: a uniform sample of the whole stream seen so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from workers.contract import derive_seed
from workers.methods.base import Batch, Method, MethodContext
from workers.supervised.objectives import Objective


class Replay(Method):
    """Add a batch of remembered samples to every batch (experience replay, reservoir buffer).

    The buffer is filled when a stage ends, by reservoir sampling (Vitter 1985, algorithm R): each
    training sample of the task is offered once, in the order of the training data, so the buffer
    is a uniform sample of everything seen. It is used from the second task on: the current task's
    own samples are in the incoming batch anyway. A replayed batch has no sample twice and holds
    the whole buffer where that is smaller; the loss is the mean over both halves.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        """Settings of the buffer."""

        kind: str = "replay"
        buffer: int = 500
        """Samples remembered over the whole stream."""
        batch: int = 64
        """Remembered samples added to each incoming batch."""

        def __post_init__(self) -> None:
            for name in ("buffer", "batch"):
                if getattr(self, name) < 1:
                    raise ValueError(f"{name} must be at least 1")

    config: Replay.Config
    mixes = plain_start = True

    def __init__(self, config: Config, seed: int, objective: Objective | None = None) -> None:
        super().__init__(config, seed, objective)
        self._x = torch.empty(0)
        self._y = torch.empty(0, dtype=torch.int64)
        self._seen = 0
        self._rng = torch.Generator().manual_seed(derive_seed(seed, "replay"))

    def __len__(self) -> int:
        """Samples in the buffer."""
        return len(self._y)

    def extend_batch(self, x: Tensor, y: Tensor) -> Batch:
        if not len(self):
            return x, y
        drawn = torch.randperm(len(self), generator=self._rng)[: self.config.batch]
        return (
            torch.cat([x, self._x[drawn].to(x.device)]),
            torch.cat([y, self._y[drawn].to(y.device)]),
        )

    def end_stage(self, context: MethodContext) -> None:
        assert context.data is not None, "replay remembers samples of data"
        train = context.data.train
        slots, samples = self._offer(len(train))
        grown = int(slots.max()) + 1 if len(slots) else 0
        self._x = _with_room(self._x, grown, train.x[samples[:1]])
        self._y = _with_room(self._y, grown, train.y)
        self._x[slots] = train.x[samples]
        self._y[slots] = train.y[samples]

    def state(self) -> dict[str, Tensor]:
        return {
            "x": self._x.clone(),
            "y": self._y.clone(),
            "seen": torch.tensor(self._seen),
            "rng": self._rng.get_state(),
        }

    def load_state(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        self._x = state["x"].cpu().clone()
        self._y = state["y"].cpu().clone()
        self._seen = int(state["seen"])
        self._rng.set_state(state["rng"].cpu().clone())

    def _offer(self, count: int) -> tuple[Tensor, Tensor]:
        """Offer ``count`` further samples: (slots, sample that ends up in each), slots differ."""
        position = np.arange(self._seen, self._seen + count)
        chance = torch.rand(count, generator=self._rng, dtype=torch.float64).numpy()
        slot = np.where(position < self.config.buffer, position, chance * (position + 1))
        slot = slot.astype(np.int64)
        self._seen += count
        kept = np.flatnonzero(slot < self.config.buffer)
        last = np.full(self.config.buffer, -1)
        np.maximum.at(last, slot[kept], kept)  # a later sample replaces an earlier one
        slots = np.flatnonzero(last >= 0)
        return torch.from_numpy(slots), torch.from_numpy(last[slots])


def _with_room(buffer: Tensor, slots: int, like: Tensor) -> Tensor:
    """The buffer with at least ``slots`` rows of the shape and type of ``like``'s."""
    if slots <= len(buffer):
        return buffer
    grown = torch.empty((slots, *like.shape[1:]), dtype=like.dtype)
    if len(buffer):
        grown[: len(buffer)] = buffer
    return grown
