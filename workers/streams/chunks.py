"""Streams that cut the training data into equal chunks and always test on all classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workers.contract import TaskSpec
from workers.streams.base import DatasetStream, at_least_one
from workers.streams.datasets import PartName
from workers.tables import Problem


class Chunks(DatasetStream):
    """Warm start: random equal chunks of the training data arrive one after another.

    The Tiny-ImageNet stream of DynamicMoE (arXiv 2511.18987): ten chunks over all classes, task t
    trains on chunks 1 to t. Every task is tested on the whole test part, and validated on the
    whole validation part.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(DatasetStream.Config):
        """Settings of the chunks."""

        kind: str = "chunks"
        chunks: int = 10
        """Number of chunks and tasks; sizes differ by one sample at most."""
        cumulative: bool = True
        """Task t holds chunks 1 to t; false = chunk t alone, as replay needs it."""

    config: Chunks.Config

    @property
    def cumulative(self) -> bool:  # type: ignore[override]
        return self.config.cumulative

    def tasks(self) -> tuple[TaskSpec, ...]:
        count = self.config.chunks
        return tuple(
            TaskSpec(
                index=index,
                name=f"chunk {index + 1} of {count}",
                domain=self.dataset.label,
                settings={"chunk": index},
            )
            for index in range(count)
        )

    def select(self, task: TaskSpec, part: PartName) -> np.ndarray:
        if part != "train":
            return super().select(task, part)
        pieces = np.array_split(self.order(), self.config.chunks)
        chunk = task.settings["chunk"]
        first = 0 if self.config.cumulative else chunk
        return np.sort(np.concatenate(pieces[first : chunk + 1]))

    def order(self) -> np.ndarray:
        """Training samples in the order in which chunks take them."""
        return self.rng("chunks").permutation(len(self.dataset.labels("train")))

    def problems(self) -> list[Problem]:
        few = [at_least_one("chunks", self.config.chunks)] if self.config.chunks < 1 else []
        return super().problems() + few


class ClassOrdered(Chunks):
    """Severe shift: chunks cut from the training data sorted by class, tested on all classes."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Chunks.Config):
        """Settings of the chunks."""

        kind: str = "class_ordered"
        cumulative: bool = False
        """Task t holds chunks 1 to t; false = chunk t alone."""

    def order(self) -> np.ndarray:
        return np.argsort(self.dataset.labels("train"), kind="stable")
