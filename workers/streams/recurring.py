"""A stream whose tasks come again."""

from __future__ import annotations

import string
from dataclasses import dataclass, replace

import numpy as np
import torch

from workers.contract import TaskSpec
from workers.streams.base import unique
from workers.streams.data import TaskData
from workers.streams.wrapped import Wrapped
from workers.tables import Problem


class Recurring(Wrapped):
    """Recurring tasks: ``ABAC`` learns the first task, the second, the first again, the third."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Wrapped.Config):
        """In which order they come."""

        kind: str = "recurring"
        pattern: str = "ABAC"
        """One letter for each stage: A = the first task of the stream inside, B = the second."""
        fresh: bool = False
        """Whether each visit trains on samples of its own, an equal part of the task's; else on all
        of them each time."""

        def __post_init__(self) -> None:
            if not self.pattern or set(self.pattern) - set(string.ascii_uppercase):
                raise ValueError(f"pattern must be letters from A to Z, got {self.pattern!r}")

    config: Recurring.Config

    def tasks(self) -> tuple[TaskSpec, ...]:
        known = self.inner.tasks()
        visited = [known[place] for place in self._visits]
        names = unique(task.name for task in visited)
        return tuple(
            replace(task, index=index, name=name)
            for index, (task, name) in enumerate(zip(visited, names, strict=True))
        )

    def inside(self, task: TaskSpec) -> TaskSpec:
        return self.inner.tasks()[self._visits[task.index]]

    def load(self, task: TaskSpec) -> TaskData:
        inner = self.inner.data(self.inside(task))
        if not self.config.fresh:
            return inner
        place = self._visits[task.index]
        order = self.rng("visits", place).permutation(len(inner.train))
        pieces = np.array_split(order, self._visits.count(place))
        own = np.sort(pieces[self._visits[: task.index].count(place)])
        train = inner.train.take(torch.from_numpy(own))
        return self.with_train(task, train, f"{inner.source}, visit {task.name}")

    def problems(self) -> list[Problem]:
        found = super().problems()
        last = max(self._visits)
        if not found and last >= len(self.inner.tasks()):
            tasks = len(self.inner.tasks())
            what = f"{string.ascii_uppercase[last]!r} of {tasks} tasks"
            allowed = f"allowed: A to {string.ascii_uppercase[min(tasks, 26) - 1]}"
            found.append(Problem("stream.pattern", what, allowed))
        return found

    @property
    def _visits(self) -> list[int]:
        """Place of the task of each stage in the stream inside."""
        return [string.ascii_uppercase.index(letter) for letter in self.config.pattern]
