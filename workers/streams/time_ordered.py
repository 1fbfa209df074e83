"""A stream whose samples come in the order in which they lie: real time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.contract import TaskSpec
from workers.streams.data import TaskData
from workers.streams.wrapped import Wrapped


class TimeOrdered(Wrapped):
    """Time order: samples come as they lie in their task, not shuffled; pass after pass alike."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Wrapped.Config):
        """Nothing beside the stream inside, e.g. your own arrays sorted by time."""

        kind: str = "time_ordered"

    config: TimeOrdered.Config

    def samples(self, task: TaskSpec) -> int:
        return self.inner.samples(self.inside(task))

    def load(self, task: TaskSpec) -> TaskData:
        return self.inner.data(self.inside(task))

    def arrival(self, task: TaskSpec, samples: int) -> Tensor:
        return torch.arange(samples) % len(self.data(task).train)
