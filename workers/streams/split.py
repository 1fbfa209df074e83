"""Class-incremental streams: every class belongs to one task. Task-incremental with
``task_known``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workers.contract import TaskSpec
from workers.streams.base import DatasetStream, at_least_one, unique
from workers.streams.datasets import PartName
from workers.tables import Problem

SHOWN = 20
"""Classes that a message names at most."""
NAMED, LONGEST = 4, 40
"""Most classes that a task is called by, and most characters of such a name."""


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
        classes: tuple[tuple[str | int, ...], ...] = ()
        """Classes of each task, by name or number: ``[["cat", "dog"], [7]]``; classes that are in
        none are left out. Empty = ``classes_per_task`` at a time."""

    config: Split.Config

    def tasks(self) -> tuple[TaskSpec, ...]:
        groups = self._groups()
        names = unique(class_name(group, self.dataset.names) for group in groups)
        return tuple(
            TaskSpec(index=index, name=name, domain=self.dataset.label, settings={"classes": group})
            for index, (name, group) in enumerate(zip(names, groups, strict=True))
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
        if self.config.classes:
            return found or self._mischosen()
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

    def _mischosen(self) -> list[Problem]:
        """What is wrong with classes chosen by hand."""
        known, names = self._known(), self.dataset.names
        chosen = [key for group in self.config.classes for key in group]
        allowed = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        found = [
            Problem(
                "stream.classes", f"{self.dataset.label} has no class {key!r}", f"has {allowed}"
            )
            for key in chosen
            if key not in known
        ]
        if not all(self.config.classes):
            found.append(Problem("stream.classes", "a task without classes", "give each some"))
        labels = [known[key] for key in chosen if key in known]
        for label in sorted({one for one in labels if labels.count(one) > 1}):
            what = f"class {names[label]!r} is in more than one place"
            found.append(Problem("stream.classes", what, "each class belongs to one task"))
        if self.config.order != "label":
            what = f"got {self.config.order!r} with classes chosen by hand"
            found.append(Problem("stream.order", what, "leave it out"))
        return found

    def _known(self) -> dict[str | int, int]:
        """Name or number of a class -> its label."""
        names = self.dataset.names
        return {
            **{name: label for label, name in enumerate(names)},
            **{n: n for n in range(len(names))},
        }

    def _groups(self) -> list[list[int]]:
        """Labels of each task, sorted."""
        if self.config.classes:
            known = self._known()
            return [sorted(known[key] for key in group) for group in self.config.classes]
        order, size = self._order(), self.config.classes_per_task
        return [sorted(order[start : start + size]) for start in range(0, len(order), size)]

    def _order(self) -> list[int]:
        classes = np.arange(self.dataset.classes)
        if self.config.order == "random":
            classes = self.rng("class order").permutation(classes)
        return [int(label) for label in classes]


def class_name(labels: Sequence[int], names: Sequence[str]) -> str:
    """Name of a group of classes, sorted: theirs, ``cat, dog``, where they have some and are few,
    else as ``class_range``."""
    told = ", ".join(names[label] for label in labels)
    named = any(names[label] != str(label) for label in labels)
    return told if named and len(labels) <= NAMED and len(told) <= LONGEST else class_range(labels)


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
