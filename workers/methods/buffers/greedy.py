"""GDumb's greedy sampler: the first samples of each class, room being made by the largest."""

from __future__ import annotations

from dataclasses import dataclass

from workers.methods.buffers.base import Buffer


class Greedy(Buffer):
    """Greedily balanced over classes (GDumb, arXiv 2010.02506, algorithm 1).

    A sample is kept if its class has fewer than ``size / classes seen`` in the buffer; where that
    is full, it replaces one drawn from the largest class. Afterwards all classes that had enough
    samples hold as many as each other, but for one.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Buffer.Config):
        """No settings."""

        kind: str = "greedy"

    needs_classes = True

    def slot(self, label: int, accept: float, which: float) -> int | None:
        if self.stored.get(label, 0) >= self.size / len(self.seen):
            return None
        if (filled := self.filled) < self.size:
            return filled
        largest = max(self.stored, key=lambda known: (self.stored[known], -known))
        return self.one_of([largest], which)
