"""A stream of NumPy files: a folder for each task, arrays of any shape, read batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from workers.contract import InputError, TaskSpec
from workers.streams.base import InputType, Stream
from workers.streams.data import NO_ARRAY, Part, TaskData
from workers.tables import Problem

TARGETS = ("train_y", "validation_y", "test_y")
"""Files that hold a task's targets."""


class Arrays(Stream):
    """Your own arrays: a folder of .npy files for each task, memory-mapped, of any shape.

    A task's folder holds ``train_x.npy`` [N, ...], ``train_y.npy`` (labels [N], or numbers [N, K]
    for ``objective = "regression"``), ``test_x.npy``, ``test_y.npy`` and, if there are such,
    ``validation_x.npy`` and ``validation_y.npy``.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Stream.Config):
        """Settings of the folders."""

        kind: str = "arrays"
        path: str = ""
        """The folder of the tasks' folders; relative to the working folder of the process."""
        tasks: tuple[str, ...] = ()
        """Names of the tasks' folders in order; none = all, sorted by name."""
        domain: str = ""
        """Label of all tasks; empty = each task is a domain of its own."""
        inputs: InputType = "float"
        """What a model gets: float (32 bits) or integer (64 bits), whatever is stored."""

    config: Arrays.Config

    def __init__(self, config: Any, seed: int) -> None:
        super().__init__(config, seed)
        self._labels: dict[str, Sequence[int]] = {}

    def tasks(self) -> tuple[TaskSpec, ...]:
        return tuple(
            TaskSpec(index=index, name=name, domain=self.config.domain or name)
            for index, name in enumerate(self._names)
        )

    @property
    def input_type(self) -> InputType:  # type: ignore[override]
        return self.config.inputs

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self._array(self._names[0], "train_x").shape[1:])

    @cached_property
    def outputs(self) -> int:
        """Numbers of a target, or one more than the largest label in any file."""
        targets = [
            self._array(name, part)
            for name in self._names
            for part in TARGETS
            if self._file(name, part).is_file()
        ]
        if not self.objective.labels:
            return int(targets[0].shape[-1])
        return 1 + max(int(array.max()) for array in targets)

    def labels(self, task: TaskSpec) -> Sequence[int] | None:
        """Those that any of the task's files holds."""
        if not self.objective.labels:
            return None
        if task.name not in self._labels:
            parts = [part for part in TARGETS if self._file(task.name, part).is_file()]
            found = [np.unique(self._array(task.name, part)) for part in parts]
            self._labels[task.name] = np.unique(np.concatenate(found)).tolist()
        return self._labels[task.name]

    def load(self, task: TaskSpec) -> TaskData:
        own = self._file(task.name, "validation_x").is_file()
        return TaskData.of(
            train=self._part(task.name, "train"),
            validation=self._part(task.name, "validation") if own else None,
            test=self._part(task.name, "test"),
            source=f"{self._root.name}: {task.name}",
        )

    def validates(self, task: TaskSpec) -> bool:
        return self._file(task.name, "validation_x").is_file() or super().validates(task)

    def problems(self) -> list[Problem]:
        if not self.config.path:
            return [Problem("stream.path", "missing", "give the folder of the tasks' folders")]
        if not self._root.is_dir() or not self._names:
            what = f"{self._root} is no folder with a folder for each task"
            return [Problem("stream.path", what, "give the folder of the tasks' folders")]
        parts = ("train_x", "train_y", "test_x", "test_y")
        return [
            problem for name in self._names for part in parts for problem in self._wrong(name, part)
        ]

    # ------------------------------------------------------------ inside

    @property
    def _root(self) -> Path:
        return Path(self.config.path).expanduser().absolute()

    @cached_property
    def _names(self) -> tuple[str, ...]:
        if self.config.tasks or not self.config.path:
            return self.config.tasks
        return tuple(sorted(inside.name for inside in self._root.iterdir() if inside.is_dir()))

    def _file(self, task: str, name: str) -> Path:
        return self._root / task / f"{name}.npy"

    def _part(self, task: str, part: str) -> Part:
        return Part(self._array(task, f"{part}_x"), np.asarray(self._array(task, f"{part}_y")))

    def _array(self, task: str, name: str) -> np.ndarray:
        """A file's array, memory-mapped; InputError naming the file where it cannot be read."""
        path = self._file(task, name)
        try:
            array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        except NO_ARRAY as error:
            raise InputError(
                f"{path}: cannot be read as an array ({error}); write it with numpy.save"
            ) from error
        return array

    def _wrong(self, task: str, name: str) -> list[Problem]:
        """What keeps a file from being read."""
        try:
            self._array(task, name)
        except InputError as error:
            what, _, remedy = str(error).rpartition("; ")
            return [Problem("stream.path", what, remedy)]
        return []
