"""The two ends of the scale: only the current task's data, and all data at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from workers.methods.base import Method
from workers.streams import Part, TaskData
from workers.streams.data import concatenated


class Finetune(Method):
    """Train on the current task only and do nothing against forgetting: the lower bound."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        """No settings."""

        kind: str = "finetune"

    plain_start: ClassVar[bool] = True
    works_with: ClassVar[frozenset[str]] = frozenset({"supervised", "rl"})


class Joint(Method):
    """Train each stage on the data of all tasks so far, going on (cumulative): an upper bound."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        """No settings."""

        kind: str = "joint"

    needs_past = mixes = plain_start = True

    def training_data(self, current: TaskData, past: Sequence[TaskData]) -> Part:
        if not past:
            return current.train
        return concatenated([task.train for task in (*past, current)])
