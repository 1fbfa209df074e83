"""Streams of tasks for supervised learning: what a task's data is and how a stream hands it out.

Knows nothing of models, methods and training.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workers.contract import InputError, TaskSpec, derive_seed
from workers.streams.datasets import DATASETS, Dataset, Part
from workers.tables import Problem, choice, construct

CACHE_TASKS = 4
CACHE_BYTES = 1 << 29
"""A stream keeps the data of its last tasks up to these limits; the newest is always kept."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskData:
    """Data of one task, on the CPU. Build it with ``TaskData.of``; never change it in place."""

    train_x: Tensor
    """float32 [N, C, H, W]; images lie in [0, 1]."""
    train_y: Tensor
    """int64 [N], labels from 0."""
    test_x: Tensor
    test_y: Tensor
    source: str
    """Origin in words, e.g. ``fashion_mnist: classes 0,1``."""
    digest: str
    """SHA-256 (16 hex digits) over the arrays."""
    train_domain: Tensor | None = None
    """int64 [N], place of each training sample's domain in the task's ``domains``; None where
    all are of the task's one domain."""

    @classmethod
    def of(
        cls,
        *,
        train_x: Any,
        train_y: Any,
        test_x: Any,
        test_y: Any,
        source: str,
        train_domain: Tensor | None = None,
    ) -> TaskData:
        """Check the arrays (tensors or numpy) and add their digest.

        Inputs become float32 and labels int64. Raises InputError naming ``source`` where shapes
        do not fit together, a part is empty, or a value is not finite.
        """
        train = _checked(f"{source}: training part", train_x, train_y)
        test = _checked(f"{source}: test part", test_x, test_y)
        labels = () if train_domain is None else (train_domain,)
        if labels and len(labels[0]) != len(train[1]):
            raise InputError(
                f"{source}: {len(labels[0])} domain labels for {len(train[1])} training samples; "
                "every sample needs one"
            )
        return cls(
            train_x=train[0],
            train_y=train[1],
            test_x=test[0],
            test_y=test[1],
            source=source,
            digest=arrays_digest((*train, *test, *labels)),
            train_domain=train_domain,
        )

    @property
    def bytes(self) -> int:
        """Memory of the four arrays."""
        arrays = (self.train_x, self.train_y, self.test_x, self.test_y)
        return sum(array.numel() * array.element_size() for array in arrays)


class Stream:
    """Tasks in a fixed order. A subclass gives ``tasks``, ``input_shape``, ``outputs``, ``load``.

    Everything a stream says depends only on its config, the seed and the data files.
    """

    trainer = "supervised"
    """Key of ``workers.trainers.TRAINERS``: what trains the stream's lanes."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the stream; ``kind`` is its name in the table or ``module:Class``."""

        kind: str

    def __init__(self, config: Any, seed: int) -> None:
        self.config = config
        self.seed = seed
        self._cache: OrderedDict[int, TaskData] = OrderedDict()

    def tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks in order, named without loading data; names must differ."""
        raise NotImplementedError

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one input of any task."""
        raise NotImplementedError

    @property
    def outputs(self) -> int:
        """Number of labels over the whole stream: the width of a single head."""
        raise NotImplementedError

    def load(self, task: TaskSpec) -> TaskData:
        """Build the data of a task; ``data`` caches it."""
        raise NotImplementedError

    def data(self, task: TaskSpec) -> TaskData:
        """Data of a task, kept in memory for the last few tasks.

        Raises InputError where it does not fit ``input_shape`` and ``outputs``.
        """
        if task.index in self._cache:
            self._cache.move_to_end(task.index)
            return self._cache[task.index]
        data = self.load(task)
        self._check(task, data)
        self._cache[task.index] = data
        while len(self._cache) > 1 and (
            len(self._cache) > CACHE_TASKS
            or sum(kept.bytes for kept in self._cache.values()) > CACHE_BYTES
        ):
            self._cache.popitem(last=False)
        return data

    def test(self, task: TaskSpec) -> tuple[Tensor, Tensor]:
        """Only the test part, as in ``data``: what an evaluator needs."""
        data = self.data(task)
        return data.test_x, data.test_y

    def test_domains(self, task: TaskSpec) -> Tensor | None:
        """int64 [n], place of each test sample's domain in ``task.domains``; None = one domain."""
        return None

    def problems(self) -> list[Problem]:
        """What a plan must know: settings that do not fit together, files that are missing."""
        return []

    def _check(self, task: TaskSpec, data: TaskData) -> None:
        where = f"stream {self.config.kind}, task {task.name!r}"
        for x, y in ((data.train_x, data.train_y), (data.test_x, data.test_y)):
            if tuple(x.shape[1:]) != tuple(self.input_shape):
                raise InputError(
                    f"{where}: inputs of shape {tuple(x.shape[1:])}, but the stream's "
                    f"input_shape is {tuple(self.input_shape)}; make them equal"
                )
            if int(y.min()) < 0 or int(y.max()) >= self.outputs:
                raise InputError(
                    f"{where}: labels {int(y.min())} to {int(y.max())}, but the stream's outputs "
                    f"allow 0 to {self.outputs - 1}; change the labels or outputs"
                )


class SampledStream(Stream):
    """Stream over data sets: a subclass selects samples of one per task and may change them."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Stream.Config):
        """Settings of every stream over data sets."""

        train_samples: int | None = None
        """Training samples per task at most (of each domain where a task mixes several), drawn by
        the seed; None = all."""
        test_samples: int | None = None
        """Test samples per task at most, likewise; None = all."""

    config: SampledStream.Config

    def dataset_of(self, task: TaskSpec) -> Dataset:
        """The data set a task draws from."""
        raise NotImplementedError

    def select(self, task: TaskSpec, part: Part) -> np.ndarray:
        """Indices (int64 [n]) of the task's samples in a part; here all of them."""
        return np.arange(len(self.dataset_of(task).labels(part)))

    def transform(self, task: TaskSpec, x: Tensor) -> Tensor:
        """Change inputs, float32 [n, C, H, W]; here nothing. Must not change ``x`` in place."""
        return x

    def relabel(self, task: TaskSpec, y: Tensor) -> Tensor:
        """Change labels, int64 [n]; here nothing."""
        return y

    def part(self, task: TaskSpec, part: Part) -> tuple[Tensor, Tensor]:
        """(x, y) of a part of a task: selected, capped, scaled to [0, 1] and transformed."""
        dataset = self.dataset_of(task)
        index = self._capped(self.select(task, part), part)
        x = torch.from_numpy(dataset.pixels(part, index)).to(torch.float32).div_(dataset.top)
        y = torch.from_numpy(dataset.labels(part)[index])
        return self.transform(task, x).contiguous(), self.relabel(task, y).contiguous()

    def load(self, task: TaskSpec) -> TaskData:
        train_x, train_y = self.part(task, "train")
        test_x, test_y = self.part(task, "test")
        label = self.dataset_of(task).label
        source = task.name if task.name.startswith(label) else f"{label}: {task.name}"
        return TaskData.of(
            train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y, source=source
        )

    def test(self, task: TaskSpec) -> tuple[Tensor, Tensor]:
        if task.index in self._cache:
            return super().test(task)
        return self.part(task, "test")

    def problems(self) -> list[Problem]:
        limits = {name: getattr(self.config, name) for name in ("train_samples", "test_samples")}
        return [
            at_least_one(name, value)
            for name, value in limits.items()
            if value is not None and value < 1
        ]

    def rng(self, *parts: Any) -> np.random.Generator:
        """A random generator that depends on the stream's seed and the parts."""
        return np.random.default_rng(derive_seed(self.seed, "stream", *parts))

    def _capped(self, index: np.ndarray, part: Part) -> np.ndarray:
        """At most the configured number of indices, in their order.

        The draw is the same for every task, so tasks that share samples keep sharing them.
        """
        limit = self.config.train_samples if part == "train" else self.config.test_samples
        if limit is None or limit >= len(index):
            return index
        return index[np.sort(self.rng("cap", part).choice(len(index), limit, replace=False))]


class DatasetStream(SampledStream):
    """Stream that cuts one data set into tasks."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(SampledStream.Config):
        """Settings of every stream over one data set."""

        dataset: Any = choice(DATASETS, "digits")
        """The data set, by name or as a table with its settings."""

    config: DatasetStream.Config

    def __init__(self, config: Any, seed: int) -> None:
        super().__init__(config, seed)
        self.dataset: Dataset = construct(DATASETS, config.dataset)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.dataset.shape

    @property
    def outputs(self) -> int:
        return self.dataset.classes

    def dataset_of(self, task: TaskSpec) -> Dataset:
        return self.dataset

    def problems(self) -> list[Problem]:
        return super().problems() + self.dataset.problems("stream.dataset")


# ---------------------------------------------------------------- helpers of streams


def at_least_one(name: str, value: Any) -> Problem:
    """The problem of a count in the stream's settings that is below 1."""
    return Problem(f"stream.{name}", f"got {value}", "must be at least 1")


def unique(names: Iterable[str]) -> list[str]:
    """Names with `` (2)``, `` (3)`` ... added to repeated ones, as tasks are told apart by name."""
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return result


def arrays_digest(arrays: Iterable[Tensor]) -> str:
    """SHA-256 (16 hex digits) over type, shape and contents of CPU tensors."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype}{tuple(array.shape)}".encode())
        total.update(array.contiguous().numpy().data)
    return total.hexdigest()[:16]


def _checked(where: str, x: Any, y: Any) -> tuple[Tensor, Tensor]:
    x = torch.as_tensor(x, dtype=torch.float32).cpu().contiguous()
    y = torch.as_tensor(y, dtype=torch.int64).cpu().contiguous()
    if x.dim() != 4 or y.dim() != 1 or len(x) != len(y):
        raise InputError(
            f"{where}: inputs {tuple(x.shape)} with labels {tuple(y.shape)}; inputs must be "
            "[N, C, H, W] and labels [N]"
        )
    if len(x) == 0:
        raise InputError(f"{where}: has no samples; every task needs some to train and to test on")
    if not all(math.isfinite(end) for end in x.aminmax()):  # one pass; both carry nan along
        raise InputError(f"{where}: inputs hold nan or inf; clean the data")
    return x, y
