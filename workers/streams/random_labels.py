"""Stream that measures plasticity: nothing carries over, each task must be learnt by heart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.contract import TaskSpec
from workers.streams.base import DatasetStream, at_least_one
from workers.streams.data import Part
from workers.streams.datasets import Dataset, PartName, ThreeParts
from workers.tables import Problem


class RandomLabels(DatasetStream):
    """Plasticity: the same samples with fresh random labels each task, to be learnt by heart.

    Random labels cannot generalise, so test and validation part are the training part, from which
    nothing is held out: scores are training accuracy, and a network that loses plasticity reaches
    less of it task by task.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(DatasetStream.Config):
        """Settings of the random labels."""

        kind: str = "random_labels"
        tasks: int = 10
        """Number of label draws."""
        train_samples: int | None = 768
        """Samples, drawn once by the seed; None = all."""
        test_samples: int | None = None
        """How many of the training samples to test on; None = all."""
        validation_samples: int | None = None
        """How many of the training samples to validate on; None = all."""

    config: RandomLabels.Config

    def tasks(self) -> tuple[TaskSpec, ...]:
        return tuple(
            TaskSpec(
                index=index,
                name=f"labels {index + 1}",
                domain=f"labels {index + 1}",
                settings={"draw": index},
            )
            for index in range(self.config.tasks)
        )

    def in_three_parts(self, dataset: Dataset) -> ThreeParts:
        return ThreeParts(dataset, 0.0, self.rng())

    def part(self, task: TaskSpec, part: PartName) -> Part:
        learnt = super().part(task, "train")
        limit = None if part == "train" else self._limit(part)
        return learnt if limit is None else learnt.head(limit)

    def validates(self, task: TaskSpec) -> bool:
        return bool(self.config.validation > 0.0)

    def relabel(self, task: TaskSpec, y: Tensor) -> Tensor:
        rng = self.rng("labels", task.settings["draw"])
        return torch.from_numpy(rng.integers(0, self.outputs, len(y)))

    def problems(self) -> list[Problem]:
        few = [at_least_one("tasks", self.config.tasks)] if self.config.tasks < 1 else []
        return super().problems() + few
