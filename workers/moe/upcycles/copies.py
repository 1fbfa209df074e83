"""Sparse upcycling: every expert is the whole feed-forward."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.moe.experts.feed_forward import FeedForward
from workers.moe.upcycles.base import Upcycle, check_counts


class Copies(Upcycle):
    """Every expert is the whole feed-forward, with noise if wanted (arXiv 2212.05055).

    Without noise the outputs are those of the dense model, since the weights of a token's experts
    add up to 1.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Upcycle.Config):
        """Number of copies."""

        kind: str = "copies"
        experts: int = 4
        """Copies."""
        k: int = 2
        """Copies that a token runs through."""
        noise: float = 0.0
        """Standard deviation of Gaussian noise on each copy's weights, as a share of that of the
        weights."""

        def __post_init__(self) -> None:
            check_counts(self.experts, self.k)
            if self.noise < 0:
                raise ValueError(f"noise must not be negative, got {self.noise}")

    cuts = False

    def width(self, dense: int) -> int:
        return dense

    def parts(self, whole: FeedForward) -> Iterator[FeedForward]:
        for _ in range(self.experts):
            maps = tuple((self._noisy(weight), bias) for weight, bias in whole.maps)
            yield FeedForward(maps, whole.activation, whole.gated)

    def _noisy(self, weight: Tensor) -> Tensor:
        if not self.config.noise:
            return weight
        spread = self.config.noise * weight.std()
        return weight + torch.randn(weight.shape).to(weight) * spread
