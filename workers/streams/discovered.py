"""A stream whose domains are found in its samples, in place of those that were given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from workers.contract import TaskSpec, derive_seed, domains_of
from workers.streams.data import Part, TaskData
from workers.streams.discovery import DISCOVERIES, Discovery
from workers.streams.sampling import spread, strata
from workers.streams.wrapped import Wrapped
from workers.tables import choice, construct

LOOKED_AT = 1024
"""Training samples of each task that are looked at ahead."""


class Discovered(Wrapped):
    """Domain discovery: masks and routers are told domains found in the inputs, not the true ones.

    Samples of every part get the domain that ``by`` finds, of all tasks alike; masks, counts and
    figures by domain go by them. Each stage tells ``adjusted_rand``: the adjusted Rand index of
    found and true domains over the training samples of all tasks so far.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Wrapped.Config):
        """How they are found."""

        kind: str = "discovered"
        by: Any = choice(DISCOVERIES, "kmeans")
        """What finds them, by name or as a table with its settings."""

    config: Discovered.Config
    keeps_order = True

    def __init__(self, config: Any, seed: int) -> None:
        super().__init__(config, seed)
        self.true = domains_of(self.inner.tasks())
        self.discovery: Discovery = construct(DISCOVERIES, config.by, seed, len(self.true))
        self._trained: list[tuple[Tensor, Tensor]] = []
        """Of each task so far: (true, found) domain of its training samples."""

    def tasks(self) -> tuple[TaskSpec, ...]:
        names = [f"found {number + 1}" for number in range(self.discovery.most)]
        return tuple(
            replace(task, settings={**task.settings, "domains": names})
            for task in self.inner.tasks()
        )

    def samples(self, task: TaskSpec) -> int:
        return self.inner.samples(self.inside(task))

    def arrival(self, task: TaskSpec, samples: int) -> Tensor | None:
        return self.inner.arrival(self.inside(task), samples)

    @property
    def ordered(self) -> bool:
        return self.inner.ordered

    def load(self, task: TaskSpec) -> TaskData:
        from sklearn.metrics import adjusted_rand_score

        inner = self.inner.data(self.inside(task))
        self._learn(task.index)
        true, found = (torch.cat(two) for two in zip(*self._trained[: task.index + 1], strict=True))
        held = self.held_out(task)
        assert held["test"] is not None
        made = TaskData.of(
            train=replace(inner.train, domain=self._trained[task.index][1]),
            validation=held["validation"],
            test=held["test"],
            source=f"{inner.source}, domains by {self.config.by.kind}",
        )
        return replace(made, notes={"adjusted_rand": f"{adjusted_rand_score(true, found):.4f}"})

    def held_out(self, task: TaskSpec) -> dict[str, Part | None]:
        self._learn(task.index)
        parts = self.inner.held_out(self.inside(task))
        return {name: self._told(task, part) for name, part in parts.items()}

    def _told(self, task: TaskSpec, part: Part | None) -> Part | None:
        if part is None:
            return None
        true = self._true(task, part)
        return replace(part, domain=self.discovery.found(_flat(part), true, task.index))

    def _learn(self, upto: int) -> None:
        """Let it learn from the tasks in order, up to this one, each once."""
        tasks = self.inner.tasks()
        if self.discovery.looks_ahead and not self._trained:
            self.discovery.prepare(torch.cat([self._few(task) for task in tasks]))
        for task in tasks[len(self._trained) : upto + 1]:
            part = self.inner.data(task).train
            true = self._true(task, part)
            self._trained.append((true, self.discovery.learn(_flat(part), true, task.index)))

    def _few(self, task: TaskSpec) -> Tensor:
        part = self.inner.data(task).train
        number = strata(len(part), part.domain, self.objective.classes(part.y))
        seed = derive_seed(self.seed, "stream", "looked at", task.index)
        return _flat(part.take(spread(number, LOOKED_AT, seed)))

    def _true(self, task: TaskSpec, part: Part) -> Tensor:
        """Place of each sample's true domain among the stream's."""
        places = torch.tensor([self.true.index(name) for name in self.inside(task).domains])
        return places[:1].repeat(len(part)) if part.domain is None else places[part.domain]


def _flat(part: Part) -> Tensor:
    """Inputs [N, D], float64."""
    return part.x[:].double().flatten(1)
