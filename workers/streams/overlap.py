"""Class-incremental stream whose neighbouring tasks have classes in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workers.contract import TaskSpec
from workers.streams.base import DatasetStream, at_least_one, unique
from workers.streams.datasets import PartName
from workers.streams.split import class_name
from workers.tables import Problem


class Overlap(DatasetStream):
    """Overlapping tasks: neighbours have a share of their classes in common, from none to all.

    Task t has the classes t s to t s + c - 1 of the order, ``s = c (1 - overlap)``, c classes per
    task. The training samples of a class are dealt in equal parts to the tasks that have it, so
    that none comes twice; held-out parts are whole. ``train_samples`` makes tasks of equal size.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(DatasetStream.Config):
        """How many tasks, and how much they have in common."""

        kind: str = "overlap"
        tasks: int = 4
        """Number of tasks."""
        classes_per_task: int = 4
        """c."""
        overlap: float = 0.5
        """Share of its classes that a task has in common with the next, 0 to 1."""
        order: Literal["label", "random"] = "label"
        """``label``: classes in label order; ``random``: drawn by the seed."""

        def __post_init__(self) -> None:
            DatasetStream.Config.__post_init__(self)
            if not 0.0 <= self.overlap <= 1.0:
                raise ValueError(f"overlap must lie between 0 and 1, got {self.overlap}")

    config: Overlap.Config

    def tasks(self) -> tuple[TaskSpec, ...]:
        groups = [self._classes(index) for index in range(self.config.tasks)]
        names = unique(class_name(group, self.dataset.names) for group in groups)
        return tuple(
            TaskSpec(index=index, name=name, domain=self.dataset.label, settings={"classes": group})
            for index, (name, group) in enumerate(zip(names, groups, strict=True))
        )

    def labels(self, task: TaskSpec) -> Sequence[int]:
        classes: list[int] = task.settings["classes"]
        return classes

    def select(self, task: TaskSpec, part: PartName) -> np.ndarray:
        labels = self.dataset.labels(part)
        classes = task.settings["classes"]
        if part != "train":
            return np.flatnonzero(np.isin(labels, classes))
        having = [t.settings["classes"] for t in self.tasks()]
        own = []
        for label in classes:
            sharing = [index for index, group in enumerate(having) if label in group]
            members = self.rng("dealt", label).permutation(np.flatnonzero(labels == label))
            own.append(np.array_split(members, len(sharing))[sharing.index(task.index)])
        return np.sort(np.concatenate(own))

    def problems(self) -> list[Problem]:
        found, size, tasks = super().problems(), self.config.classes_per_task, self.config.tasks
        found += [
            at_least_one(n, v) for n, v in (("classes_per_task", size), ("tasks", tasks)) if v < 1
        ]
        if found:
            return found
        shift = size * (1 - self.config.overlap)
        if abs(shift - round(shift)) > 1e-9:
            allowed = ", ".join(f"{k / size:g}" for k in range(size + 1))
            what = f"{self.config.overlap:g} of {size} classes is no whole number"
            return [Problem("stream.overlap", what, f"allowed: {allowed}")]
        needed = round(shift) * (tasks - 1) + size
        if needed > self.dataset.classes:
            what = f"{tasks} tasks need {needed} classes, {self.dataset.label} has"
            what = f"{what} {self.dataset.classes}"
            allowed = "fewer tasks, fewer classes each, or more overlap"
            return [Problem("stream.tasks", what, allowed)]
        return []

    def _classes(self, index: int) -> list[int]:
        classes = np.arange(self.dataset.classes)
        if self.config.order == "random":
            classes = self.rng("class order").permutation(classes)
        shift = round(self.config.classes_per_task * (1 - self.config.overlap))
        first = index * shift
        return sorted(int(c) for c in classes[first : first + self.config.classes_per_task])
