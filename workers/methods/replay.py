"""Experience replay from a buffer of the stream seen so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workers.contract import derive_seed
from workers.methods.base import Batch, Method, MethodContext
from workers.methods.memory import Memory, MemoryConfig, classes_of, rows_of
from workers.supervised.objectives import Objective


class Replay(Method):
    """Add a batch of remembered samples to every batch (experience replay).

    The buffer is filled when a stage ends: each training sample of the task is offered once, in
    the order of the training data; with ``storage = "reservoir"`` it is a uniform sample of
    everything seen. It is used from the second task on: the current task's own samples are in the
    incoming batch anyway. A replayed batch has no sample twice and holds the whole buffer where
    that is smaller; the loss is the mean over both halves.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(MemoryConfig):
        """Settings of the buffer."""

        kind: str = "replay"
        batch: int = 64
        """Remembered samples added to each incoming batch."""

    config: Replay.Config
    mixes = plain_start = True

    def __init__(self, config: Config, seed: int, objective: Objective | None = None) -> None:
        super().__init__(config, seed, objective)
        self.memory = Memory(config.storage, config.buffer, derive_seed(seed, "replay"))

    def extend_batch(self, x: Tensor, y: Tensor) -> Batch:
        if not len(self.memory):
            return x, y
        drawn = self.memory.draw(self.config.batch)
        return torch.cat([x, drawn["x"].to(x.device)]), torch.cat([y, drawn["y"].to(y.device)])

    def end_stage(self, context: MethodContext) -> None:
        assert context.data is not None, "replay remembers samples of data"
        train = context.data.train
        label_N = classes_of(self.objective, train.y)
        self.memory.offer(label_N, context.stage.index, rows_of(train))

    def state(self) -> dict[str, Tensor]:
        return self.memory.state()

    def load_state(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        self.memory.load_state(state)
