"""Data-set-incremental stream: one data set after another, brought to a common image shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.nn import functional

from workers.contract import TaskSpec
from workers.parsing import choose
from workers.streams.base import SampledStream, at_least_one, unique
from workers.streams.datasets import DATASETS, ThreeParts
from workers.tables import Problem


class DatasetSequence(SampledStream):
    """Data-set-incremental: one data set after another, e.g. digits, then garments."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(SampledStream.Config):
        """Settings of the sequence."""

        kind: str = "datasets"
        datasets: tuple[Any, ...] = ("digits", "fashion_mnist")
        """Data sets in order, each by name or as a table with its settings."""
        shared_labels: bool = False
        """Label k of every data set is the same output; false = each has outputs of its own."""
        fit: Literal["pad", "resize"] = "pad"
        """How images reach the common size: black border around them, or bilinear resizing."""
        size: int | None = None
        """Height and width of all images; None = the largest found in the data sets."""

    config: DatasetSequence.Config
    images = True

    def __init__(self, config: Any, seed: int) -> None:
        super().__init__(config, seed)
        self.datasets: list[ThreeParts] = []
        self._unknown: list[Problem] = []
        for number, raw in enumerate(config.datasets):
            cls, settings, problems = choose(DATASETS, raw, f"stream.datasets.{number}")
            self._unknown += problems
            if cls is not None and settings is not None:
                self.datasets.append(self.in_three_parts(cls(settings)))

    def tasks(self) -> tuple[TaskSpec, ...]:
        labels = [dataset.label for dataset in self.datasets]
        return tuple(
            TaskSpec(index=index, name=name, domain=label, settings={"dataset": index})
            for index, (name, label) in enumerate(zip(unique(labels), labels, strict=True))
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        shapes = [dataset.shape for dataset in self.datasets]
        size = self.config.size
        channels, height, width = (max(sides) for sides in zip(*shapes, strict=True))
        return channels, size or height, size or width

    @property
    def outputs(self) -> int:
        counts = [dataset.classes for dataset in self.datasets]
        return max(counts) if self.config.shared_labels else sum(counts)

    def dataset_of(self, task: TaskSpec) -> ThreeParts:
        return self.datasets[task.settings["dataset"]]

    def transform(self, task: TaskSpec, x: Tensor) -> Tensor:
        channels, height, width = self.input_shape
        if x.shape[1] != channels:
            x = x.expand(-1, channels, -1, -1)
        return (padded if self.config.fit == "pad" else resized)(x, height, width)

    def labels(self, task: TaskSpec) -> Sequence[int] | None:
        if self.config.shared_labels:
            return None
        first = self._first_label(task)
        return range(first, first + self.dataset_of(task).classes)

    def relabel(self, task: TaskSpec, y: Tensor) -> Tensor:
        return y if self.config.shared_labels else y + self._first_label(task)

    def _first_label(self, task: TaskSpec) -> int:
        """Output of the first label of the task's data set, where each has its own."""
        return sum(dataset.classes for dataset in self.datasets[: task.settings["dataset"]])

    def problems(self) -> list[Problem]:
        found = super().problems() + self._unknown
        size = self.config.size
        if size is not None and size < 1:
            found.append(at_least_one("size", size))
        if not self.config.datasets:
            found.append(Problem("stream.datasets", "got none", "give at least one data set"))
        for number, dataset in enumerate(self.datasets if not self._unknown else ()):
            path = f"stream.datasets.{number}"
            found += dataset.problems(path) or self.image_problems(dataset, path)
        return found or self._shape_problems()

    def _shape_problems(self) -> list[Problem]:
        _, height, width = self.input_shape
        too_large = [
            dataset.label
            for dataset in self.datasets
            if dataset.shape[1] > height or dataset.shape[2] > width
        ]
        found = []
        if self.config.fit == "pad" and too_large:
            allowed = "give a larger size, or fit = 'resize'"
            what = f"{self.config.size} is smaller than images of {', '.join(too_large)}"
            found.append(Problem("stream.size", what, allowed))
        channels = {dataset.shape[0] for dataset in self.datasets}
        if not channels <= {1, max(channels)}:
            what = f"channels {sorted(channels)}"
            found.append(Problem("stream.datasets", what, "only grey images can be widened"))
        return found


def padded(x: Tensor, height: int, width: int) -> Tensor:
    """Images [n, C, h, w] in the middle of black ones of height x width."""
    down, right = height - x.shape[2], width - x.shape[3]
    return functional.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))


def resized(x: Tensor, height: int, width: int) -> Tensor:
    """Images [n, C, h, w] resized (bilinear, antialiased), rounded to 255 grey levels.

    The rounding makes digests agree between processors.
    """
    if tuple(x.shape[2:]) == (height, width):
        return x
    scaled = functional.interpolate(
        x, (height, width), mode="bilinear", align_corners=False, antialias=True
    )
    return scaled.mul_(255).round_().div_(255)
