"""What decides which of a stream's samples are kept. Knows labels of samples, no sample itself.

Letters: N samples offered, n slots that they end up in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

EMPTY = -1
"""Label of a slot that holds nothing."""


class Buffer:
    """Keeps at most ``size`` samples, in slots that are filled from 0 and never empty again.

    This base offers one sample after another; a subclass gives ``slot``.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the buffer; ``kind`` is its name in the table or ``module:Class``."""

        kind: str

    needs_classes: ClassVar[bool] = False
    """Whether labels of samples must be their classes."""

    def __init__(self, config: Any, size: int, generator: torch.Generator) -> None:
        """``generator``: what draws are taken from; whoever gives it stores its state."""
        self.config, self.size, self.generator = config, size, generator
        self.labels = np.full(size, EMPTY, dtype=np.int64)
        """Label of the sample in each slot."""
        self.stored: dict[int, int] = {}
        """Label -> samples kept, where there are any."""
        self.seen: dict[int, int] = {}
        """Label -> samples offered so far."""

    def offer(self, label_N: Tensor, task: int) -> tuple[Tensor, Tensor]:
        """Offer samples in this order: (slots, sample that ends up in each), int64 [n]; no slot is
        named twice.

        label_N: class of each, int64; where the objective knows no classes, all 0. ``task``:
        number of the task that they are of.
        """
        chance_N2 = torch.rand(len(label_N), 2, generator=self.generator, dtype=torch.float64)
        placed: dict[int, int] = {}
        labels = self.labels_of(label_N, task).tolist()
        for sample, (label, chances) in enumerate(zip(labels, chance_N2.tolist(), strict=True)):
            self.seen[label] = self.seen.get(label, 0) + 1
            slot = self.slot(label, *chances)
            if slot is not None:
                self._put(label, slot)
                placed[slot] = sample
        slots, samples = list(placed), list(placed.values())
        return torch.tensor(slots, dtype=torch.int64), torch.tensor(samples, dtype=torch.int64)

    def labels_of(self, label_N: Tensor, task: int) -> Tensor:
        """What samples are told apart by, int64 [N]."""
        return label_N

    def slot(self, label: int, accept: float, which: float) -> int | None:
        """Slot for the next sample, counted in ``seen`` already; None = it is not kept.

        ``accept``, ``which``: two uniform draws from 0 to 1.
        """
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        """Copies of everything but the generator's state."""
        labels = sorted(self.seen)
        counts = [self.seen[label] for label in labels]
        return {
            "slot_labels": torch.from_numpy(self.labels.copy()),
            "seen_labels": torch.tensor(labels, dtype=torch.int64),
            "seen": torch.tensor(counts, dtype=torch.int64),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on where ``state`` was taken."""
        self.labels = state["slot_labels"].cpu().numpy().copy()
        known = zip(state["seen_labels"].tolist(), state["seen"].tolist(), strict=True)
        self.seen = dict(known)
        labels, counts = np.unique(self.labels[self.labels != EMPTY], return_counts=True)
        self.stored = dict(zip(labels.tolist(), counts.tolist(), strict=True))

    # ------------------------------------------------------------ for subclasses

    @property
    def filled(self) -> int:
        """Slots in use."""
        return sum(self.stored.values())

    def one_of(self, labels: list[int], which: float) -> int:
        """A slot whose sample has one of these labels, each alike; ``which``: uniform, 0 to 1."""
        slots = np.flatnonzero(np.isin(self.labels, labels))
        return int(slots[int(which * len(slots))])

    def _put(self, label: int, slot: int) -> None:
        gone = int(self.labels[slot])
        if gone != EMPTY:
            self.stored[gone] -= 1
            if not self.stored[gone]:
                del self.stored[gone]
        self.labels[slot] = label
        self.stored[label] = self.stored.get(label, 0) + 1
