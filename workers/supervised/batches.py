"""The order in which a stage's samples are trained. Knows places of samples, not the samples."""

from __future__ import annotations

import torch
from torch import Tensor


class Batches:
    """Batches of a stage, epoch after epoch, in an order that depends on the seed alone."""

    def __init__(
        self, samples: int, size: int, seed: int, domain: Tensor | None = None, pure: bool = False
    ) -> None:
        """``size``: samples of a batch. ``domain``: int64 [samples], domain of each; ``pure``:
        a batch holds samples of one domain only, if the domains are known."""
        self.samples, self.size, self.domain = samples, size, domain
        self.order: Tensor | None = None
        """Samples in the order in which they come, int64 [>= those of all batches]; None = each
        epoch in a random order."""
        self.position = 0
        """Samples of the epoch that were given out."""
        self._pure = pure and domain is not None
        self._generator = torch.Generator().manual_seed(seed)
        self._shuffle()

    @property
    def per_epoch(self) -> int:
        """Batches of one epoch."""
        parts = [self.samples]
        if self._pure:
            assert self.domain is not None
            parts = self.domain.bincount().tolist()
        return sum(-(-part // self.size) for part in parts)

    def next(self) -> Tensor:
        """Indices of the next batch's samples, int64 [n] with n <= ``size``.

        n is smaller at the end of an epoch and, with batches by domain, at the end of a domain.
        """
        if self.order is not None:
            self.position += self.size
            return self.order[self.position - self.size : self.position]
        if self.position >= self.samples:
            self._shuffle()
        end = min(self.position + self.size, self.samples)
        index = self._order[self.position : end]
        if self._pure:
            assert self.domain is not None
            domain = self.domain[index]
            index = index[: int((domain == domain[0]).cumprod(0).sum())]
            end = self.position + len(index)
        self.position = end
        return index

    def resume(self, position: int, order_state: Tensor) -> None:
        """Go on after ``position`` samples of the epoch that ``order_state`` was kept for."""
        self._generator.set_state(order_state)
        self._shuffle()
        self.position = position

    def _shuffle(self) -> None:
        """Draw the next epoch's order, remembering the generator's state before it."""
        self.order_state = self._generator.get_state()
        self._order = torch.randperm(self.samples, generator=self._generator)
        if self._pure:
            self._order = self._one_domain_at_a_time()
        self.position = 0

    def _one_domain_at_a_time(self) -> Tensor:
        """The order cut into batches of one domain each, the batches in random order."""
        assert self.domain is not None
        domain = self.domain[self._order]
        parts = [
            part
            for place in domain.unique()
            for part in self._order[domain == place].split(self.size)
        ]
        turn = torch.randperm(len(parts), generator=self._generator)
        return torch.cat([parts[i] for i in turn])


def equal_parts(samples: int, parts: int) -> list[slice]:
    """So many samples in ``parts`` consecutive slices as equal as can be; empty ones left out."""
    ends = [samples * (number + 1) // parts for number in range(parts)]
    starts = [0, *ends[:-1]]
    return [slice(start, end) for start, end in zip(starts, ends, strict=True) if end > start]
