"""What every data set of labelled images offers; knows nothing of tasks and streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from workers.tables import Problem

Part = Literal["train", "test"]


class Dataset:
    """Labelled images with a training and a test part.

    A subclass gives ``label``, ``shape``, ``classes``, ``labels`` and ``pixels``; nothing is read
    before one of the last two is called.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the data set; ``kind`` is its name in the table."""

        kind: str

    top: int = 255
    """Grey level that stands for 1.0."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def label(self) -> str:
        """Name of the data set in task names, domains and lineage."""
        return str(self.config.kind)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        raise NotImplementedError

    @property
    def classes(self) -> int:
        """Number of classes; labels are 0 to classes - 1."""
        raise NotImplementedError

    def labels(self, part: Part) -> np.ndarray:
        """Labels of a part, int64 [N]."""
        raise NotImplementedError

    def pixels(self, part: Part, index: np.ndarray) -> np.ndarray:
        """Images ``index`` (int64 [n]) of a part, uint8 [n, C, H, W] with values 0 to ``top``."""
        raise NotImplementedError

    def problems(self, path: str) -> list[Problem]:
        """What keeps the data set from being read; ``path`` is its place in the config."""
        return []
