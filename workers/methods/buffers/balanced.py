"""Class-balancing reservoir sampling: as many samples of each class, or task, as can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.methods.buffers.base import EMPTY, Buffer


class ClassBalanced(Buffer):
    """Balanced over classes, and of each class a uniform sample (Chrysakis and Moens, ICML 2020).

    Algorithm 1 (CBRS): what comes while there is room is kept. Then a class is full from the moment
    on when no other has more samples in the buffer. A sample of a class that never was full
    replaces one drawn from the largest classes; one of a class that was replaces one of its own,
    with chance ``m / n``: m of the class's n samples offered so far are kept.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Buffer.Config):
        """No settings."""

        kind: str = "class_balanced"

    needs_classes = True

    def __init__(self, config: Config, size: int, generator: torch.Generator) -> None:
        super().__init__(config, size, generator)
        self.full: set[int] = set()

    def slot(self, label: int, accept: float, which: float) -> int | None:
        if (filled := self.filled) < self.size:
            return filled
        most = max(self.stored.values())
        largest = [known for known, count in self.stored.items() if count == most]
        self.full.update(largest)
        if label not in self.full:
            return self.one_of(largest, which)
        kept = self.stored.get(label, 0)
        return self.one_of([label], which) if accept < kept / self.seen[label] else None

    def state(self) -> dict[str, Tensor]:
        return {**super().state(), "full": torch.tensor(sorted(self.full), dtype=torch.int64)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        super().load_state(state)
        self.full = set(state["full"].tolist())


class TaskBalanced(ClassBalanced):
    """The same over tasks: as many samples of each task, each a uniform sample of its task."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Buffer.Config):
        """No settings."""

        kind: str = "task_balanced"

    needs_classes = False

    def labels_of(self, label_N: Tensor, task: int) -> Tensor:
        assert task != EMPTY, "tasks are numbered from 0"
        return torch.full_like(label_N, task)
