"""Class-incremental streams: every class belongs to one task. Task-incremental with
``task_known``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workers.contract import TaskSpec
from workers.streams.base import DatasetStream, at_least_one
from workers.streams.datasets import PartName
from workers.tables import Problem


class Split(DatasetStream):
    """Class-incremental: a few classes per task, one head over all classes, no task label.

    With ``task_known`` task-incremental: the classes of a sample's task alone answer it.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(DatasetStream.Config):
        """Settings of a split by classes."""

        kind: str = "split"
        classes_per_task: int = 2
        """Must divide the number of classes."""
        order: Literal["label", "random"] = "label"
        """``label``: classes in label order; ``random``: drawn by the seed."""

    config: Split.Config

    def tasks(self) -> tuple[TaskSpec, ...]:
        order, size = self._order(), self.config.classes_per_task
        groups = [sorted(order[start : start + size]) for start in range(0, len(order), size)]
        return tuple(
            TaskSpec(
                index=index,
                name=class_range(group),
                domain=self.dataset.label,
                settings={"classes": group},
            )
            for index, group in enumerate(groups)
        )

    def labels(self, task: TaskSpec) -> Sequence[int]:
        found: Sequence[int] = task.settings["classes"]
        return found

    def select(self, task: TaskSpec, part: PartName) -> np.ndarray:
        return np.flatnonzero(np.isin(self.dataset.labels(part), task.settings["classes"]))

    def problems(self) -> list[Problem]:
        found, size = super().problems(), self.config.classes_per_task
        if size < 1:
            return [*found, at_least_one("classes_per_task", size)]
        if found or self.dataset.classes % size == 0:
            return found
        classes = self.dataset.classes
        divisors = ", ".join(str(d) for d in range(1, classes + 1) if classes % d == 0)
        return [
            Problem(
                "stream.classes_per_task",
                f"{size} does not divide the {classes} classes of {self.dataset.label}",
                f"allowed: {divisors}",
            )
        ]

    def _order(self) -> list[int]:
        classes = np.arange(self.dataset.classes)
        if self.config.order == "random":
            classes = self.rng("class order").permutation(classes)
        return [int(label) for label in classes]


def class_range(classes: Sequence[int]) -> str:
    """Name of a group of classes, sorted: ``classes 0,1``; long runs become ``classes 0-19``."""
    runs: list[list[int]] = []
    for label in classes:
        if runs and label == runs[-1][-1] + 1:
            runs[-1].append(label)
        else:
            runs.append([label])
    words = [
        f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(str(label) for label in run)
        for run in runs
    ]
    return f"{'class' if len(classes) == 1 else 'classes'} {','.join(words)}"
