"""Streams of tasks for supervised learning: how a stream hands out the data of its tasks.

Knows nothing of models, methods and training.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from workers.contract import InputError, TaskSpec, derive_seed, digest
from workers.streams.data import Part, TaskData, arrays_digest, of_type
from workers.streams.datasets import DATASETS, Dataset, PartName, ThreeParts
from workers.streams.datasets.base import read_array
from workers.streams.sampling import held_out, strata
from workers.supervised.objectives import OBJECTIVES, Objective
from workers.tables import Problem, choice, construct

CACHE_TASKS = 4
CACHE_BYTES = 1 << 29
"""A stream keeps the data of its last tasks up to these limits; the newest is always kept."""

InputType = Literal["float", "integer"]
INPUT_TYPES: dict[InputType, torch.dtype] = {"float": torch.float32, "integer": torch.int64}
"""What ``Stream.input_type`` may say -> type of the inputs that a model gets."""


class Stream:
    """Tasks in a fixed order. A subclass gives ``tasks``, ``input_shape``, ``outputs``, ``load``.

    Everything a stream says depends only on its config, the seed and the data files. Every task
    has a training, a validation and a test part: reports show test scores, searches choose by
    validation scores. Where ``load`` gives no validation part, a share of the training part is
    drawn for it by the seed, the same share of each class and domain; a stream whose tasks share
    training samples must give one itself, or a task trains on another's validation samples.
    """

    trainer: ClassVar[str] = "supervised"
    """Key of ``workers.trainers.TRAINERS``: what trains the stream's lanes."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the stream; ``kind`` is its name in the table or ``module:Class``."""

        kind: str
        objective: Any = choice(OBJECTIVES, "classification")
        """What outputs are compared with: loss and score."""
        validation: float = 0.1
        """Share of the training part that is held out for validation, where the data have no
        validation part of their own; 0 = none."""
        task_known: bool = False
        """Task-incremental: the task of every sample is known, at test time too. Labels of other
        tasks are no answers then (logits -inf), in training and evaluation, where a stream's tasks
        have labels of their own."""
        domain_given: bool = False
        """Task-incremental: whoever uses a model tells it each sample's domain, at test time too.
        Else a model that needs it is an upper bound, and says so."""

        def __post_init__(self) -> None:
            if not 0.0 <= self.validation < 1.0:
                raise ValueError(f"validation must be at least 0 and below 1: {self.validation}")

    input_type: InputType = "float"
    """Whether models get float32 or int64 inputs; stored arrays may be of any number type."""
    cumulative: bool = False
    """Whether each task's training data hold those of all tasks before."""

    def __init__(self, config: Any, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.objective: Objective = construct(OBJECTIVES, config.objective)
        if config.task_known and self.objective.masks_labels:
            self.objective.know_tasks(self._task_of_label)
        self._cache: OrderedDict[int, TaskData] = OrderedDict()

    @property
    def needs(self) -> str:
        """Capability that its lanes' models must have (``workers.models.Model``)."""
        return self.objective.needs

    def tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks in order, named without loading data; names must differ."""
        raise NotImplementedError

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input of any task; (channels, height, width) of an image."""
        raise NotImplementedError

    @property
    def outputs(self) -> int:
        """Width of a model's output: labels over the whole stream, or numbers of a target."""
        raise NotImplementedError

    def labels(self, task: TaskSpec) -> Sequence[int] | None:
        """Labels that samples of the task may have; None = all of them."""
        return None

    def load(self, task: TaskSpec) -> TaskData:
        """Build the data of a task; ``data`` caches it."""
        raise NotImplementedError

    @property
    def ordered(self) -> bool:
        """Whether ``arrival`` says in which order samples come."""
        return type(self).arrival is not Stream.arrival

    def arrival(self, task: TaskSpec, samples: int) -> Tensor | None:
        """Places in the task's training part, int64 [samples], in the order in which the stage's
        steps take them; None = each epoch in a random order. Not asked for where a method trains
        on earlier tasks too, which it mixes with this one."""
        return None

    def scored_tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks that models are scored on, by ``held_out``: the columns of R. Others than
        ``tasks`` where stages are not tasks."""
        return self.tasks()

    def learnt_after(self) -> tuple[int, ...]:
        """For each scored task the stage (from 0) at whose end it was learnt; must not fall."""
        return tuple(range(len(self.tasks())))

    def identity(self, task: TaskSpec) -> str:
        """Digest of all that decides the task's data, and what of the stream a model is built by.

        Lanes of one seed whose first tasks are equal in it train them once. A stream whose
        settings speak of several tasks leaves out what does not touch this one.
        """
        return digest([asdict(self.config), asdict(task)])

    def data(self, task: TaskSpec) -> TaskData:
        """Data of a task in its three parts, kept in memory for the last few tasks.

        Raises InputError where it does not fit ``input_shape``, ``input_type``, ``outputs`` and
        the objective.
        """
        if task.index in self._cache:
            self._cache.move_to_end(task.index)
            return self._cache[task.index]
        data = self.load(task)
        for part in data.parts.values():
            self._check(task, part)
        data = self._with_validation(task, data).of_type(INPUT_TYPES[self.input_type])
        self._cache[task.index] = data
        while len(self._cache) > 1 and (
            len(self._cache) > CACHE_TASKS
            or sum(kept.bytes for kept in self._cache.values()) > CACHE_BYTES
        ):
            self._cache.popitem(last=False)
        return data

    def samples(self, task: TaskSpec) -> int:
        """Training samples of the task."""
        return len(self.data(task).train)

    def held_out(self, task: TaskSpec) -> dict[str, Part | None]:
        """The parts ``validation`` (None where there is none) and ``test``, as in ``data``.

        What an evaluator needs; cheaper than ``data`` where a stream can leave the training part
        alone.
        """
        data = self.data(task)
        return {"validation": data.validation, "test": data.test}

    def validates(self, task: TaskSpec) -> bool:
        """Whether the task has a validation part, as far as is known without its data."""
        return bool(self.config.validation > 0.0)

    def problems(self) -> list[Problem]:
        """What a plan must know: settings that do not fit together, files that are missing."""
        return []

    def problems_of_known_tasks(self) -> list[Problem]:
        """Why ``task_known`` says nothing of a sample's answer; asked where it is set."""
        told = [labels for task in self.tasks() if (labels := self.labels(task)) is not None]
        apart = {frozenset(labels) for labels in told}
        if told and not self.objective.masks_labels:
            what = f"tasks have labels of their own, objective {self.config.objective.kind!r} none"
            allowed = "use objective classification, or leave stream.task_known out"
            return [Problem("stream.task_known", what, allowed)]
        mixed = len(told) not in (0, len(self.tasks())) or sum(map(len, apart)) > len(
            frozenset().union(*apart)
        )
        if not mixed:
            return []
        what = "some labels, but not all, are shared by tasks"
        allowed = "tasks must have equal labels or none in common: give such, or leave it out"
        return [Problem("stream.task_known", what, allowed)]

    def tokens(self, text: str) -> Tensor:
        """A text as a model of this stream reads it, int64 [T].

        Raises InputError where the stream knows no text.
        """
        raise InputError(f"stream {self.config.kind!r} knows no text; use stream text")

    @property
    def reader(self) -> str:
        """Digest of what makes inputs of the data, such as a tokenizer: a model that learnt from
        one cannot go on with another. Empty where nothing does."""
        return ""

    def readable(self, inputs: Tensor) -> list[str]:
        """What each number of one input [T] stands for, in words."""
        return [f"{value:g}" for value in inputs.tolist()]

    def read(self, path: Path) -> Tensor:
        """Inputs of a file as models of this stream get them, [N, *input_shape].

        Raises InputError where it holds none such.
        """
        values = torch.from_numpy(read_array(path, tuple(self.input_shape)))
        return values.to(INPUT_TYPES[self.input_type])

    @property
    def names(self) -> list[str]:
        """What each output of a model stands for, where it is a class."""
        return [str(label) for label in range(self.outputs)]

    def write_reader(self, folder: Path) -> None:
        """Put what other programs need to make inputs, such as a tokenizer, beside a model."""

    # ------------------------------------------------------------ inside

    def _task_of_label(self) -> Tensor:
        """int64 [outputs]: of each label the first task that has it, -1 where none has."""
        found = torch.full((self.outputs,), -1)
        for task in reversed(self.tasks()):
            labels = self.labels(task)
            found[slice(None) if labels is None else torch.tensor(labels)] = task.index
        return found

    def _with_validation(self, task: TaskSpec, data: TaskData) -> TaskData:
        """The data with a validation part drawn from the training part, where there is none."""
        part, share = data.train, self.config.validation
        if data.validation is not None or share == 0.0 or len(part) < 2:
            return data
        number = strata(len(part), self.objective.classes(part.y), part.domain)
        rng = np.random.default_rng(derive_seed(self.seed, "stream", "validation", task.index))
        held = torch.from_numpy(held_out(number.numpy(), share, rng))
        if not held.any():  # strata of one sample each
            held[int(rng.integers(len(held)))] = True
        return replace(
            data,
            train=part.take(torch.nonzero(~held).flatten()),
            validation=part.take(torch.nonzero(held).flatten()),
            digest=digest([data.digest, arrays_digest([held])]),
        )

    def _check(self, task: TaskSpec, part: Part) -> None:
        where = f"stream {self.config.kind}, task {task.name!r}"
        if tuple(part.x.shape[1:]) != tuple(self.input_shape):
            raise InputError(
                f"{where}: inputs of shape {tuple(part.x.shape[1:])}, but the stream's "
                f"input_shape is {tuple(self.input_shape)}; make them equal"
            )
        if self.input_type == "integer" and part.x.dtype.is_floating_point:
            raise InputError(
                f"{where}: inputs of type {part.x.dtype}, but the stream's input_type is "
                "'integer'; give integers, or say 'float'"
            )
        self.objective.check(part.y, self.outputs, where)


class SampledStream(Stream):
    """Stream over data sets: a subclass selects samples of one per task and may change them.

    The validation part is drawn from a whole data set before tasks select from it, so no task
    trains on a sample that another one validates on.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Stream.Config):
        """Settings of every stream over data sets."""

        train_samples: int | None = None
        """Training samples per task at most (of each domain where a task mixes several), drawn by
        the seed; None = all."""
        validation_samples: int | None = None
        """Validation samples per task at most, likewise; None = all."""
        test_samples: int | None = None
        """Test samples per task at most, likewise; None = all."""

    config: SampledStream.Config
    images: ClassVar[bool] = False
    """Whether the stream can only change images [channels, height, width]."""

    def dataset_of(self, task: TaskSpec) -> ThreeParts:
        """The data set a task draws from."""
        raise NotImplementedError

    def select(self, task: TaskSpec, part: PartName) -> np.ndarray:
        """Indices (int64 [n]) of the task's samples in a part; here all of them."""
        return np.arange(len(self.dataset_of(task).labels(part)))

    def transform(self, task: TaskSpec, x: Tensor) -> Tensor:
        """Change inputs, float32 [n, ...]; here nothing. Must not change ``x`` in place."""
        return x

    def relabel(self, task: TaskSpec, y: Tensor) -> Tensor:
        """Change labels, int64 [n]; here nothing."""
        return y

    def part(self, task: TaskSpec, part: PartName) -> Part:
        """A part of a task: selected, capped, scaled and transformed; may be empty."""
        dataset = self.dataset_of(task)
        index = self._capped(self.select(task, part), part)
        x = dataset.scaled(part, index)
        y = torch.from_numpy(dataset.labels(part)[index])
        return Part(self.transform(task, x).contiguous(), self.relabel(task, y).contiguous())

    def samples(self, task: TaskSpec) -> int:
        """As in ``part``, without reading inputs."""
        if type(self).part is not SampledStream.part:
            return super().samples(task)
        return len(self._capped(self.select(task, "train"), "train"))

    def source(self, task: TaskSpec) -> str:
        """Where the task's data come from, in words."""
        label = self.dataset_of(task).label
        return task.name if task.name.startswith(label) else f"{label}: {task.name}"

    def load(self, task: TaskSpec) -> TaskData:
        return TaskData.of(
            train=self.part(task, "train"),
            validation=self._validation(task),
            test=self.part(task, "test"),
            source=self.source(task),
        )

    def held_out(self, task: TaskSpec) -> dict[str, Part | None]:
        if task.index in self._cache:
            return super().held_out(task)
        dtype = INPUT_TYPES[self.input_type]
        validation, test = self._validation(task), self.part(task, "test")
        return {
            "validation": None if validation is None else of_type(validation, dtype),
            "test": of_type(test, dtype),
        }

    def problems(self) -> list[Problem]:
        names = ("train_samples", "validation_samples", "test_samples")
        limits = {name: getattr(self.config, name) for name in names}
        found = [
            at_least_one(name, value)
            for name, value in limits.items()
            if value is not None and value < 1
        ]
        if not self.objective.labels:
            what = f"got {self.config.objective.kind!r} with data sets of labelled samples"
            found.append(Problem("stream.objective", what, "use one for labels: classification"))
        return found

    def rng(self, *parts: Any) -> np.random.Generator:
        """A random generator that depends on the stream's seed and the parts."""
        return np.random.default_rng(derive_seed(self.seed, "stream", *parts))

    def in_three_parts(self, dataset: Dataset) -> ThreeParts:
        """The data set with a validation part; equal data sets are always cut alike."""
        rng = self.rng("validation", dataset.label)
        return ThreeParts(dataset, self.config.validation, rng)

    def image_problems(self, dataset: Dataset, path: str) -> list[Problem]:
        """The problem of a data set without images, where the stream changes images."""
        if not self.images or len(dataset.shape) == 3:
            return []
        what = f"{dataset.label} has inputs of shape {tuple(dataset.shape)}"
        allowed = f"stream {self.config.kind!r} needs images [channels, height, width]"
        return [Problem(path, what, allowed)]

    def validates(self, task: TaskSpec) -> bool:
        return self.dataset_of(task).validates

    def _validation(self, task: TaskSpec) -> Part | None:
        """The task's validation part; None where it has no samples."""
        if not self.validates(task):
            return None
        part = self.part(task, "validation")
        return part if len(part) else None

    def _capped(self, index: np.ndarray, part: PartName) -> np.ndarray:
        """At most the configured number of indices, in their order.

        The draw is the same for every task, so tasks that share samples keep sharing them.
        """
        limit = self._limit(part)
        if limit is None or limit >= len(index):
            return index
        return index[np.sort(self.rng("cap", part).choice(len(index), limit, replace=False))]

    def _limit(self, part: PartName) -> int | None:
        config = self.config
        return {
            "train": config.train_samples,
            "validation": config.validation_samples,
            "test": config.test_samples,
        }[part]


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
        self.dataset = self.in_three_parts(construct(DATASETS, config.dataset))

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.dataset.shape

    @property
    def outputs(self) -> int:
        return self.dataset.classes

    @property
    def names(self) -> list[str]:
        named = self.dataset.names
        return named if len(named) == self.outputs else super().names

    def read(self, path: Path) -> Tensor:
        found = self.dataset.as_inputs(self.dataset.read(path))
        return found.to(INPUT_TYPES[self.input_type])

    def dataset_of(self, task: TaskSpec) -> ThreeParts:
        return self.dataset

    def problems(self) -> list[Problem]:
        found = super().problems() + self.dataset.problems("stream.dataset")
        return found or self.image_problems(self.dataset, "stream.dataset")


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
