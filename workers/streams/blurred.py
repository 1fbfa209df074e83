"""A stream without sharp boundaries: neighbouring tasks mix around each of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from workers.contract import TaskSpec
from workers.streams.data import Part, TaskData
from workers.streams.wrapped import Wrapped, cycled, mixed
from workers.tables import Problem


class Blurred(Wrapped):
    """Blurred boundaries: around each one the next task's share of samples rises linearly.

    At progress p of a stage (0 to 1), ``max(0, 1/2 - p / width)`` of the samples are of the task
    before and ``max(0, 1/2 - (1 - p) / width)`` of the task after: the share of the old task falls
    from 1 to 0 over ``width`` stages around the boundary, and is 1/2 at it. What a stage shows of
    its neighbours they do not show themselves, so that one pass shows each sample once.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Wrapped.Config):
        """How wide the boundaries are."""

        kind: str = "blurred"
        width: float = 0.2
        """Length of a boundary, in stages: 0 (sharp) to 1."""

        def __post_init__(self) -> None:
            if not 0.0 <= self.width <= 1.0:
                raise ValueError(f"width must lie between 0 and 1, got {self.width}")

    config: Blurred.Config

    def tasks(self) -> tuple[TaskSpec, ...]:
        inner = self.inner.tasks()
        return tuple(replace(task, settings=self._settings(task, inner)) for task in inner)

    def scored_tasks(self) -> tuple[TaskSpec, ...]:
        return self.inner.tasks()

    def load(self, task: TaskSpec) -> TaskData:
        known = self.inner.tasks()
        own = known[task.index]
        near = [own, *(other for other in known if abs(other.index - own.index) == 1)]
        parts = [self._part(other, own) for other in near]
        train = mixed(near, parts, task.domains)
        return self.with_train(task, train, f"{self.inner.data(own).source}, blurred")

    def arrival(self, task: TaskSpec, samples: int) -> Tensor:
        """Own samples and those of each neighbour in slots whose number up to any place is that of
        the shares, rounded."""
        known, index = self.inner.tasks(), task.index
        near = [n for n in (index, index - 1, index + 1) if 0 <= n < len(known)]
        lengths = {n: len(self._places(known[n], known[index])) for n in near}
        of = torch.full((samples,), index)
        for step, slots in self._slots(samples).items():
            if lengths.get(index + step):
                of[slots] = index + step
        found, start = torch.empty(samples, dtype=torch.int64), 0
        for number, length in lengths.items():
            slots, pool = of == number, torch.arange(start, start + length)
            found[slots] = cycled(pool, int(slots.sum()), self.rng("arrival", index, number))
            start += length
        return found

    def problems(self) -> list[Problem]:
        found = super().problems()
        if not found and len(self.inner.tasks()) < 2:
            found.append(Problem("stream.stream", "one task", "boundaries need two tasks or more"))
        return found

    def _slots(self, samples: int) -> dict[int, Tensor]:
        """-1, 1 -> bool [samples]: which samples are of the task before, and of that after."""
        progress = (np.arange(samples) + 0.5) / samples
        width = max(self.config.width, 1e-12)
        shares = {-1: 0.5 - progress / width, 1: 0.5 - (1 - progress) / width}
        found = {}
        for other, share in shares.items():
            upto = np.floor(np.cumsum(np.maximum(0.0, share)) + 0.5)
            found[other] = torch.from_numpy(np.diff(upto, prepend=0.0) > 0)
        return found

    def _settings(self, task: TaskSpec, known: tuple[TaskSpec, ...]) -> dict[str, object]:
        """With the domains of the neighbours that are mixed in, its own first."""
        near = [other for other in known if abs(other.index - task.index) == 1]
        names = dict.fromkeys(
            [*task.domains, *(name for other in near for name in other.domains)]
            if self.config.width
            else task.domains
        )
        return task.settings if len(names) < 2 else {**task.settings, "domains": list(names)}

    def samples(self, task: TaskSpec) -> int:
        known = self.inner.tasks()
        near = [other for other in known if abs(other.index - task.index) <= 1]
        return sum(len(self._places(other, known[task.index])) for other in near)

    def _part(self, task: TaskSpec, stage: TaskSpec) -> Part:
        return self.inner.data(task).train.take(self._places(task, stage))

    def _places(self, task: TaskSpec, stage: TaskSpec) -> Tensor:
        """Places of the task's training samples that the stage of ``stage`` shows: ``width`` / 8 of
        the stage's length are of each neighbour, at most a quarter of what that one has."""
        known = self.inner.tasks()
        samples = self.inner.samples(task)
        order = self.order("lent", task.index, samples=samples)

        def lent(to: int) -> int:
            if not 0 <= to < len(known):
                return 0
            return min(round(self.config.width / 8 * self.inner.samples(known[to])), samples // 4)

        before, after = lent(task.index - 1), lent(task.index + 1)
        cuts = {-1: order[:before], 0: order[before : samples - after], 1: order[samples - after :]}
        return cuts[stage.index - task.index].sort().values
