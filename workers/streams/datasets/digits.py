"""The digits that ship inside scikit-learn: no download, small enough for a first run."""

from __future__ import annotations

import gzip
import importlib.util
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from workers.contract import InputError
from workers.streams.datasets.base import Dataset, PartName
from workers.streams.sampling import every_fifth


class Digits(Dataset):
    """1797 handwritten digits, 8x8, 17 grey levels, inside scikit-learn.

    There is no official test part: every fifth sample of each class is held out (355 in all).
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Dataset.Config):
        """No settings."""

        kind: str = "digits"

    top = 16
    shape = (1, 8, 8)
    classes = 10

    @cached_property
    def _parts(self) -> dict[PartName, tuple[np.ndarray, np.ndarray]]:
        with gzip.open(_file()) as file:
            rows = np.loadtxt(file, delimiter=",", dtype=np.int64)
        x, y = rows[:, :-1].astype(np.uint8).reshape(-1, *self.shape), rows[:, -1]
        held = every_fifth(y)
        return {"train": (x[~held], y[~held]), "test": (x[held], y[held])}

    def labels(self, part: PartName) -> np.ndarray:
        return self._parts[part][1]

    def inputs(self, part: PartName, index: np.ndarray) -> np.ndarray:
        images: np.ndarray = self._parts[part][0][index]
        return images


def _file() -> Path:
    """The table inside scikit-learn, found without importing it (its import takes seconds)."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("data set digits: scikit-learn is missing; install it (make setup)")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
