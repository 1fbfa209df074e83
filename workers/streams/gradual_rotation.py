"""Continuous drift: images turn a little further with every sample."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from workers.contract import TaskSpec
from workers.streams.base import DatasetStream, at_least_one
from workers.streams.data import Part
from workers.streams.datasets import PartName
from workers.streams.rotated import rotate_each
from workers.streams.wrapped import cycled
from workers.tables import Problem

GROUP = 64
"""Samples that come together."""


class GradualRotation(DatasetStream):
    """Continuous drift: images turn further with every sample, from one angle to another.

    Stage k of K sees the data set's k-th random K-th; its sample at place i of n is turned by
    ``first + (last - first) (k + (i + 1/2) / n) / K`` degrees, and samples come in that order, in
    groups of 64 that are repeated together where a stage takes more samples than it has. Held-out
    parts are whole, turned by the angle of the stage's middle.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(DatasetStream.Config):
        """From where to where, and in how many stages."""

        kind: str = "gradual_rotation"
        first: float = 0.0
        """Degrees counter-clockwise at the stream's beginning."""
        last: float = 180.0
        """Degrees at its end."""
        stages: int = 6
        """K."""

    config: GradualRotation.Config
    images = True

    def tasks(self) -> tuple[TaskSpec, ...]:
        bounds = np.linspace(self.config.first, self.config.last, self.config.stages + 1).tolist()
        return tuple(
            TaskSpec(
                index=index,
                name=f"rotation {index + 1}: {low:g} to {high:g}",
                domain=f"rotation {index + 1}",
                settings={"from": low, "to": high},
            )
            for index, (low, high) in enumerate(pairwise(bounds))
        )

    def select(self, task: TaskSpec, part: PartName) -> np.ndarray:
        if part != "train":
            return super().select(task, part)
        order = self.rng("rotation").permutation(len(self.dataset.labels("train")))
        own: np.ndarray = np.array_split(order, self.config.stages)[task.index]
        return own

    def part(self, task: TaskSpec, part: PartName) -> Part:
        found = super().part(task, part)
        low, high = task.settings["from"], task.settings["to"]
        n = len(found)
        share = (np.arange(n) + 0.5) / n if part == "train" else np.full(n, 0.5)
        return Part(rotate_each(found.x, (low + (high - low) * share).tolist()), found.y)

    def samples(self, task: TaskSpec) -> int:
        return len(self._capped(self.select(task, "train"), "train"))

    def arrival(self, task: TaskSpec, samples: int) -> Tensor:
        length = self.samples(task)
        groups = torch.arange(length).split(GROUP)
        ends = [samples * (number + 1) // len(groups) for number in range(len(groups))]
        rng = self.rng("arrival", task.index)
        counts = np.diff([0, *ends]).tolist()
        return torch.cat([cycled(g, count, rng) for g, count in zip(groups, counts, strict=True)])

    def problems(self) -> list[Problem]:
        found = super().problems()
        if self.config.stages < 1:
            return [*found, at_least_one("stages", self.config.stages)]
        if not found and self.input_shape[1] != self.input_shape[2]:
            allowed = f"images of {self.dataset.label} are not square: set dataset.size"
            found.append(Problem("stream.dataset", "turned images", allowed))
        return found
