"""MNIST and Fashion-MNIST from idx files found on this machine; fetching is elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from workers.contract import InputError
from workers.streams.datasets.base import Dataset, PartName
from workers.streams.idx import read_pair
from workers.streams.places import SOURCES, cure, find, search_places
from workers.tables import Problem


class Mnist(Dataset):
    """MNIST: 60000 + 10000 handwritten digits, 28x28 grey (`growstage data fetch mnist`)."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Dataset.Config):
        """No settings; GROWSTAGE_DATA may name the folder that holds the files."""

        kind: str = "mnist"

    source = "mnist"
    shape = (1, 28, 28)
    classes = 10

    @property
    def label(self) -> str:
        return self.source

    def problems(self, path: str) -> list[Problem]:
        if find(self.source) is not None:
            return []
        places = ", ".join(str(place) for place in search_places(self.source))
        return [Problem(path, f"no {self.source} files in {places}", cure(self.source))]

    @cached_property
    def _parts(self) -> dict[PartName, tuple[np.ndarray, np.ndarray]]:
        paths = find(self.source)
        if paths is None:
            raise InputError(str(self.problems(f"data set {self.source}")[0]))
        files = tuple(paths[file.role] for file in SOURCES[self.source].files)
        return _read(self.source, files, tuple(file.stat().st_mtime_ns for file in files))

    def labels(self, part: PartName) -> np.ndarray:
        return self._parts[part][1]

    def inputs(self, part: PartName, index: np.ndarray) -> np.ndarray:
        images: np.ndarray = self._parts[part][0][index]
        return images


class FashionMnist(Mnist):
    """Fashion-MNIST: 60000 + 10000 garments, 28x28 grey (`growstage data fetch fashion_mnist`)."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Dataset.Config):
        """No settings; GROWSTAGE_DATA may name the folder that holds the files."""

        kind: str = "fashion_mnist"

    source = "fashion_mnist"


@lru_cache(maxsize=2)
def _read(
    source: str, files: tuple[Path, ...], changed: tuple[int, ...]
) -> dict[PartName, tuple[np.ndarray, np.ndarray]]:
    """Both parts from their four files; lanes of one process share the arrays.

    ``changed`` (modification times) only tells a repaired file from the one read before.
    """
    advice = f"delete it, then {cure(source)}"
    parts: dict[PartName, tuple[np.ndarray, np.ndarray]] = {
        "train": read_pair(files[0], files[1], Mnist.classes, advice),
        "test": read_pair(files[2], files[3], Mnist.classes, advice),
    }
    for (x, _), file in zip(parts.values(), files[::2], strict=True):
        if x.shape[1:] != Mnist.shape:
            raise InputError(f"{file}: images are {x.shape[1:]}, expected {Mnist.shape}; {advice}")
    return parts
