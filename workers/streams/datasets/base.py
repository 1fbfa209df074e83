"""What every data set of labelled samples offers; knows nothing of tasks and streams."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from workers.contract import InputError
from workers.streams.data import NO_ARRAY
from workers.streams.sampling import held_out
from workers.tables import Problem

PartName = Literal["train", "validation", "test"]


class Dataset:
    """Labelled samples with a training and a test part, and a validation part if it has one.

    A subclass gives ``label``, ``shape``, ``classes``, ``labels`` and ``inputs``; nothing is read
    before one of the last two is called.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the data set; ``kind`` is its name in the table."""

        kind: str

    top: int | None = 255
    """Value of an input that stands for 1.0 (a grey level); None = inputs are as they are."""
    own_validation: bool = False
    """Whether it has a validation part of its own; else one is drawn from the training part."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def label(self) -> str:
        """Name of the data set in task names, domains and lineage."""
        return str(self.config.kind)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of every input; (channels, height, width) of an image."""
        raise NotImplementedError

    @property
    def classes(self) -> int:
        """Number of classes; labels are 0 to classes - 1."""
        raise NotImplementedError

    @property
    def names(self) -> list[str]:
        """Names of the classes, in order of their labels."""
        return [str(label) for label in range(self.classes)]

    def labels(self, part: PartName) -> np.ndarray:
        """Labels of a part, int64 [N]."""
        raise NotImplementedError

    def inputs(self, part: PartName, index: np.ndarray) -> np.ndarray:
        """Inputs ``index`` (int64 [n]) of a part: numbers [n, *shape], from 0 to ``top``."""
        raise NotImplementedError

    def read(self, path: Path) -> np.ndarray:
        """Inputs of another file [N, *shape], from 0 to ``top``: here those of an .npy file.

        Raises InputError where it holds none such.
        """
        return read_array(path, self.shape)

    def problems(self, path: str) -> list[Problem]:
        """What keeps the data set from being read; ``path`` is its place in the config."""
        return []


def read_array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Samples [N, *shape] of an .npy file; InputError where it holds none such."""
    try:
        found: np.ndarray = np.load(path, allow_pickle=False)
    except NO_ARRAY as error:
        raise InputError(
            f"{path}: cannot be read as an array ({error}); write it with numpy.save"
        ) from error
    if (
        not isinstance(found, np.ndarray)
        or found.shape[1:] != shape
        or found.dtype.kind not in "iuf"
    ):
        what = getattr(found, "shape", "several arrays")
        raise InputError(
            f"{path}: holds {what}; numbers of shape [samples, {', '.join(map(str, shape))}] are "
            "needed"
        )
    return found


class ThreeParts(Dataset):
    """A data set with a validation part, which is drawn from the training part if need be.

    A share of each class is taken, whatever tasks are made of the data set later.
    """

    def __init__(self, dataset: Dataset, share: float, rng: np.random.Generator) -> None:
        """``share`` of the training samples, 0 = none; ``rng`` draws once, when first asked."""
        super().__init__(dataset.config)
        self.dataset, self._share, self._rng = dataset, share, rng

    @property
    def label(self) -> str:
        return self.dataset.label

    @property
    def shape(self) -> tuple[int, ...]:
        return self.dataset.shape

    @property
    def classes(self) -> int:
        return self.dataset.classes

    @property
    def validates(self) -> bool:
        """Whether there is a validation part."""
        return self.dataset.own_validation or self._share > 0.0

    def labels(self, part: PartName) -> np.ndarray:
        source, kept = self._place(part)
        labels = self.dataset.labels(source)
        return labels if kept is None else labels[kept]

    @property
    def names(self) -> list[str]:
        return self.dataset.names

    def read(self, path: Path) -> np.ndarray:
        return self.dataset.read(path)

    def inputs(self, part: PartName, index: np.ndarray) -> np.ndarray:
        source, kept = self._place(part)
        return self.dataset.inputs(source, index if kept is None else kept[index])

    def scaled(self, part: PartName, index: np.ndarray) -> Tensor:
        """Inputs ``index`` of a part, float32 [n, *shape], with 1.0 for the data set's ``top``."""
        return self.as_inputs(self.inputs(part, index))

    def as_inputs(self, values: np.ndarray) -> Tensor:
        """Stored inputs as models get them, float32 [n, *shape]."""
        x = torch.from_numpy(values).to(torch.float32)
        return x if self.dataset.top is None else x.div_(self.dataset.top)

    def problems(self, path: str) -> list[Problem]:
        return self.dataset.problems(path)

    def _place(self, part: PartName) -> tuple[PartName, np.ndarray | None]:
        """Part of the data set that a part comes from, and which of its samples (None = all)."""
        if part == "test" or self.dataset.own_validation or self._share == 0.0:
            return part, None
        return "train", np.flatnonzero(self._held if part == "validation" else ~self._held)

    @cached_property
    def _held(self) -> np.ndarray:
        return held_out(self.dataset.labels("train"), self._share, self._rng)
