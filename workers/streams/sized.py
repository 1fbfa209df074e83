"""Streams whose tasks have unequal numbers of training samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from workers.contract import TaskSpec, derive_seed
from workers.streams.data import TaskData
from workers.streams.sampling import spread, strata
from workers.streams.wrapped import Wrapped


class Sized(Wrapped):
    """Base: each task keeps so many of its training samples, of each class and domain its share."""

    def kept(self, task: TaskSpec) -> int:
        """Training samples of the task."""
        raise NotImplementedError

    def samples(self, task: TaskSpec) -> int:
        return min(self.kept(task), self.inner.samples(self.inside(task)))

    def load(self, task: TaskSpec) -> TaskData:
        inner = self.inner.data(self.inside(task))
        part, kept = inner.train, self.kept(task)
        number = strata(len(part), part.domain, self.objective.classes(part.y))
        index = spread(number, kept, derive_seed(self.seed, "stream", "kept", task.index))
        return self.with_train(task, part.take(index), f"{inner.source}, {len(index)} samples")


class Imbalanced(Sized):
    """Imbalanced tasks: training parts of sizes after Zipf, ``N / rank^exponent``."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Wrapped.Config):
        """How unequal, and which task is the largest."""

        kind: str = "imbalanced"
        exponent: float = 1.0
        """s: the task of rank r keeps N / r^s of its N training samples; 0 = all are kept."""
        order: Literal["falling", "rising", "random"] = "falling"
        """Ranks of the tasks over the stream; ``random``: drawn by the seed."""

        def __post_init__(self) -> None:
            if self.exponent < 0.0:
                raise ValueError(f"exponent must not be negative, got {self.exponent}")

    config: Imbalanced.Config

    def kept(self, task: TaskSpec) -> int:
        return max(1, round(self.inner.samples(self.inside(task)) / self.rank(task) ** self._s))

    def rank(self, task: TaskSpec) -> int:
        """Rank of the task by size, from 1."""
        tasks = len(self.inner.tasks())
        ranks = {
            "falling": range(1, tasks + 1),
            "rising": range(tasks, 0, -1),
            "random": (self.rng("ranks").permutation(tasks) + 1).tolist(),
        }
        return int(ranks[self.config.order][task.index])

    @property
    def _s(self) -> float:
        return self.config.exponent


class RandomLengths(Sized):
    """Stages of random length: geometric numbers of training samples, so no end can be foreseen."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Wrapped.Config):
        """How long they are."""

        kind: str = "random_lengths"
        stop: float = 0.01
        """Chance of the task's end after each sample beyond ``least``; a task ends with its samples
        in any case (a truncated geometric distribution)."""
        least: int = 64
        """Samples of each task at least."""

        def __post_init__(self) -> None:
            if not 0.0 < self.stop <= 1.0 or self.least < 1:
                raise ValueError(
                    "stop must be above 0 and at most 1, least at least 1, got "
                    f"{self.stop} and {self.least}"
                )

    config: RandomLengths.Config

    def kept(self, task: TaskSpec) -> int:
        samples = self.inner.samples(self.inside(task))
        room = max(0, samples - self.config.least)
        drawn = float(self.rng("length", task.index).random())
        return min(samples, self.config.least + truncated_geometric(drawn, self.config.stop, room))


def truncated_geometric(uniform: float, stop: float, most: int) -> int:
    """The k in 0..most whose cumulative chance first exceeds ``uniform`` (0 to below 1), chances of
    k being in proportion to ``(1 - stop)^k``."""
    if stop >= 1.0 or most == 0:
        return 0
    whole = 1.0 - (1.0 - stop) ** (most + 1)
    return min(most, int(math.log1p(-uniform * whole) / math.log1p(-stop)))
