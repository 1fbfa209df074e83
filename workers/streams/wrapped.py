"""Streams around another stream: base of those that change which of its samples come when.

They stand inside each other: ``hidden`` around ``blurred`` around ``split``. Held-out parts stay
those of the stream inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from workers.contract import TaskSpec, derive_seed
from workers.streams.base import Stream
from workers.streams.data import Part, TaskData, joined
from workers.tables import Problem, choice, construct


def _streams() -> Mapping[str, type]:
    from workers.streams import STREAMS

    return STREAMS


class Wrapped(Stream):
    """Base of streams around another one; what is not said here is as it says.

    Objective, validation share, ``task_known`` and ``domain_given`` are set on the stream inside.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """The stream inside."""

        kind: str
        stream: Any = choice(_streams, "split")
        """Stream whose samples come, by name or as a table with its settings."""

        @property
        def objective(self) -> Any:
            """What outputs are compared with."""
            return self.stream.objective

        @property
        def validation(self) -> float:
            """Share of the training part that is held out."""
            return float(self.stream.validation)

        @property
        def task_known(self) -> bool:
            """Whether the task of every sample is known."""
            return bool(self.stream.task_known)

        @property
        def domain_given(self) -> bool:
            """Whether a model is told each sample's domain."""
            return bool(self.stream.domain_given)

    keeps_order: ClassVar[bool] = False
    """Whether samples that come in an order inside still do so."""

    def __init__(self, config: Any, seed: int) -> None:
        super().__init__(config, seed)
        self.inner: Stream = construct(_streams(), config.stream, seed)
        self.objective = self.inner.objective
        self.input_type = self.inner.input_type

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.inner.input_shape

    @property
    def outputs(self) -> int:
        return self.inner.outputs

    @property
    def reader(self) -> str:
        return self.inner.reader

    def tokens(self, text: str) -> Tensor:
        return self.inner.tokens(text)

    def readable(self, inputs: Tensor) -> list[str]:
        return self.inner.readable(inputs)

    def read(self, path: Path) -> Tensor:
        return self.inner.read(path)

    @property
    def names(self) -> list[str]:
        return self.inner.names

    def write_reader(self, folder: Path) -> None:
        self.inner.write_reader(folder)

    def tasks(self) -> tuple[TaskSpec, ...]:
        return self.inner.tasks()

    def labels(self, task: TaskSpec) -> Sequence[int] | None:
        return self.inner.labels(self.inside(task))

    def inside(self, task: TaskSpec) -> TaskSpec:
        """The task of the stream inside that a task stands for."""
        return self.inner.tasks()[task.index]

    def held_out(self, task: TaskSpec) -> dict[str, Part | None]:
        return self.inner.held_out(self.inside(task))

    def validates(self, task: TaskSpec) -> bool:
        return self.inner.validates(self.inside(task))

    def samples(self, task: TaskSpec) -> int:
        return len(self.data(task).train)

    def problems(self) -> list[Problem]:
        found = [
            replace(item, path=item.path.replace("stream", "stream.stream", 1))
            for item in self.inner.problems()
        ]
        if found:
            return found
        where, kind = "stream.stream", self.config.stream.kind
        if self.inner.cumulative:
            what = f"{kind!r} gives each task the samples of those before"
            found.append(Problem(where, what, "use tasks that do not hold each other's samples"))
        if self.inner.ordered and not self.keeps_order:
            what = f"{kind!r} says itself in which order samples come"
            found.append(Problem(where, what, f"stream {self.config.kind!r} would change it"))
        stages, scored = self.inner.tasks(), self.inner.scored_tasks()
        if [task.name for task in stages] != [task.name for task in scored]:
            what = f"the stages of {kind!r} are no tasks"
            found.append(Problem(where, what, "put that stream outside of this one"))
        return found

    def rng(self, *parts: Any) -> np.random.Generator:
        """A random generator that depends on the stream's seed and the parts."""
        return np.random.default_rng(derive_seed(self.seed, "stream", self.config.kind, *parts))

    def order(self, *parts: Any, samples: int) -> Tensor:
        """A random order of so many samples, int64."""
        return torch.from_numpy(self.rng(*parts).permutation(samples))

    def with_train(self, task: TaskSpec, train: Part, source: str) -> TaskData:
        """Data of a task with this training part and the held-out parts of the one inside."""
        held = self.held_out(task)
        assert held["test"] is not None
        return TaskData.of(
            train=train, validation=held["validation"], test=held["test"], source=source
        )


def mixed(tasks: Sequence[TaskSpec], parts: Sequence[Part], domains: Sequence[str]) -> Part:
    """Parts of tasks one behind the other, with the place of each sample's domain in ``domains``;
    without it where there is one domain only."""
    x, y = joined([part.x for part in parts]), joined([part.y for part in parts])
    if len(domains) < 2:
        return Part(x, y)
    places = []
    for task, part in zip(tasks, parts, strict=True):
        own = torch.tensor([domains.index(name) for name in task.domains])
        places.append(own[:1].repeat(len(part)) if part.domain is None else own[part.domain])
    return Part(x, y, torch.cat(places))


def cycled(pool: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """``count`` entries of the pool: all of it in a random order, then again in another one."""
    if count == 0:
        return pool[:0]
    passes = [
        pool[torch.from_numpy(rng.permutation(len(pool)))] for _ in range(-(-count // len(pool)))
    ]
    return torch.cat(passes)[:count]
