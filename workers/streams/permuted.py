"""Domain-incremental stream: the same classes behind another fixed pixel permutation per task."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.contract import TaskSpec
from workers.streams.base import DatasetStream, at_least_one
from workers.tables import Problem


class Permuted(DatasetStream):
    """Domain-incremental: a fixed random pixel permutation per task, the first is the identity."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(DatasetStream.Config):
        """Settings of the permutations."""

        kind: str = "permuted"
        tasks: int = 5
        """Number of permutations."""

    config: Permuted.Config
    images = True

    def tasks(self) -> tuple[TaskSpec, ...]:
        return tuple(
            TaskSpec(
                index=index,
                name=f"permutation {index}",
                domain=f"permutation {index}",
                settings={"permutation": index},
            )
            for index in range(self.config.tasks)
        )

    def transform(self, task: TaskSpec, x: Tensor) -> Tensor:
        """Channels are permuted alike, so a pixel stays a pixel."""
        number = task.settings["permutation"]
        if number == 0:
            return x
        _, height, width = self.input_shape
        order = self.rng("permutation", number).permutation(height * width)
        return x.flatten(2)[:, :, torch.from_numpy(order)].view_as(x)

    def problems(self) -> list[Problem]:
        few = [at_least_one("tasks", self.config.tasks)] if self.config.tasks < 1 else []
        return super().problems() + few
