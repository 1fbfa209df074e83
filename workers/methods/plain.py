"""The two ends of the scale: only the current task's data, and all data at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from workers.methods.base import Batch, Method
from workers.streams import TaskData


class Finetune(Method):
    """Train on the current task only and do nothing against forgetting: the lower bound."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        """No settings."""

        kind: str = "finetune"

    works_with: ClassVar[frozenset[str]] = frozenset({"supervised", "rl"})


class Joint(Method):
    """Train each stage on the data of all tasks so far: the upper bound, not continual."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        """No settings."""

        kind: str = "joint"

    needs_past = mixes = True

    def training_data(self, current: TaskData, past: Sequence[TaskData]) -> Batch:
        seen = [*past, current]
        return torch.cat([task.train_x for task in seen]), torch.cat(
            [task.train_y for task in seen]
        )
