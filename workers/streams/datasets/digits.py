"""The digits that ship inside scikit-learn: no download, small enough for a first run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from workers.streams.datasets.base import Dataset, Part


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
    def _parts(self) -> dict[Part, tuple[np.ndarray, np.ndarray]]:
        from sklearn.datasets import load_digits  # slow to import, needed only for the data

        bunch = load_digits()
        x, y = bunch.images.astype(np.uint8)[:, None], bunch.target.astype(np.int64)
        held = np.zeros(len(y), dtype=bool)
        for label in range(self.classes):
            held[np.flatnonzero(y == label)[4::5]] = True
        return {"train": (x[~held], y[~held]), "test": (x[held], y[held])}

    def labels(self, part: Part) -> np.ndarray:
        return self._parts[part][1]

    def pixels(self, part: Part, index: np.ndarray) -> np.ndarray:
        images: np.ndarray = self._parts[part][0][index]
        return images
