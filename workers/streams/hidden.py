"""A stream that does not say where tasks begin and end."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.contract import InputError, TaskSpec
from workers.streams.data import Part, TaskData, concatenated
from workers.streams.wrapped import Wrapped
from workers.tables import Problem

LABEL = "hidden"


class Hidden(Wrapped):
    """Hidden boundaries: stages are equal slices of the whole stream, whatever their tasks.

    The training samples of all tasks stand in one row, task after task, in the order in which the
    stream inside gives them (else at random within each), and stage k of K is the k-th K-th of it.
    Methods and policies see slices of one domain; models are scored on the true tasks, each of
    which was learnt by the end of the slice that holds its last sample. Slices are trained in
    order, several times where a stage takes more samples than they have.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Wrapped.Config):
        """How many slices."""

        kind: str = "hidden"
        slices: int = 10
        """K: stages of equal length."""

        def __post_init__(self) -> None:
            if self.slices < 1:
                raise ValueError(f"slices must be at least 1, got {self.slices}")

        @property
        def task_known(self) -> bool:
            return False

        @property
        def domain_given(self) -> bool:
            return False

    config: Hidden.Config
    keeps_order = True

    def tasks(self) -> tuple[TaskSpec, ...]:
        count = self.config.slices
        return tuple(
            TaskSpec(
                index=index,
                name=f"slice {index + 1} of {count}",
                domain=LABEL,
                settings={"slice": index},
            )
            for index in range(count)
        )

    def labels(self, task: TaskSpec) -> None:
        """Of a slice any label may come."""
        return None

    def scored_tasks(self) -> tuple[TaskSpec, ...]:
        return self.inner.scored_tasks()

    def learnt_after(self) -> tuple[int, ...]:
        ends, count = self.boundaries(), self.config.slices
        return tuple(max(0, -(-end * count // ends[-1]) - 1) for end in ends)

    def load(self, task: TaskSpec) -> TaskData:
        inside = self.inside_of(task)
        trains, held = [], []
        for other, first, last in inside:
            data = self.inner.data(other)
            trains.append(data.train.take(self._row(other)[first:last]))
            held.append(data)
        validations = [data.validation for data in held if data.validation is not None]
        return TaskData.of(
            train=concatenated(trains),
            validation=concatenated(validations) if validations else None,
            test=concatenated([data.test for data in held]),
            source=f"{task.name}: {', '.join(data.source for data in held)}",
        )

    def inside_of(self, task: TaskSpec) -> list[tuple[TaskSpec, int, int]]:
        """True tasks in a slice, each with the first of its samples and the one after the last."""
        ends, count, index = self.boundaries(), self.config.slices, task.settings["slice"]
        if ends[-1] < count:
            raise InputError(
                f"stream hidden: {ends[-1]} training samples cannot be cut into {count} slices; "
                "lower slices"
            )
        start, stop = ends[-1] * index // count, ends[-1] * (index + 1) // count
        found = []
        for other, end in zip(self.inner.tasks(), ends, strict=True):
            begin = end - self.inner.samples(other)
            first, last = max(start, begin) - begin, min(stop, end) - begin
            if first < last:
                found.append((other, first, last))
        return found

    def arrival(self, task: TaskSpec, samples: int) -> Tensor:
        return torch.arange(samples) % len(self.data(task).train)

    def held_out(self, task: TaskSpec) -> dict[str, Part | None]:
        if "slice" not in task.settings or task.domain != LABEL:
            return self.inner.held_out(task)
        data = self.data(task)
        return {"validation": data.validation, "test": data.test}

    def validates(self, task: TaskSpec) -> bool:
        return all(self.inner.validates(other) for other in self.inner.scored_tasks())

    def problems(self) -> list[Problem]:
        found = super().problems()
        for name in ("task_known", "domain_given"):
            if getattr(self.config.stream, name):
                what = f"{name} with boundaries that nobody is told"
                found.append(Problem(f"stream.stream.{name}", what, "leave it out"))
        return found

    def boundaries(self) -> list[int]:
        """Place in the row after the last sample of each true task."""
        return list(itertools.accumulate(self.inner.samples(t) for t in self.inner.tasks()))

    def _row(self, task: TaskSpec) -> Tensor:
        """The task's samples in the order in which they stand in the row."""
        samples = self.inner.samples(task)
        order = self.inner.arrival(task, samples)
        return self.order("row", task.index, samples=samples) if order is None else order
