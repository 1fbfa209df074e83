"""Slices: the feed-forward is cut into k parts, and all parts are copied."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.moe.experts.feed_forward import FeedForward
from workers.moe.upcycles.base import ROUTER_SPREAD, Upcycle, check_counts


class Slices(Upcycle):
    """The hidden units are cut into k slices, and all slices copied (arXiv 2507.17436).

    Slice j reads by rows of U and answers by columns of V: sum_j E_j(x) = FFN(x). Slices of one
    copy share their router row, so that a token chooses a whole copy at first: the outputs are
    those of the dense model. Each slice's output map is k times the dense one's, as the k weights
    of a token add up to 1.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Upcycle.Config):
        """Number of copies, and of slices of each."""

        kind: str = "slices"
        copies: int = 4
        """Copies of the whole feed-forward; experts = copies x k."""
        k: int = 2
        """Slices of each copy = experts that a token runs through; must divide W."""

        def __post_init__(self) -> None:
            check_counts(self.copies * self.k, self.k)

    @property
    def experts(self) -> int:
        found: int = self.config.copies * self.config.k
        return found

    @property
    def pieces(self) -> int:
        return self.k

    @property
    def scale(self) -> float:  # type: ignore[override]
        return float(self.k)

    def units(self, whole: FeedForward) -> list[Tensor]:
        slices = torch.arange(whole.hidden).chunk(self.k)
        return [slices[expert % self.k] for expert in range(self.experts)]

    def rows(self, inputs: int) -> Tensor:
        drawn = torch.randn(self.config.copies, inputs) * ROUTER_SPREAD
        return drawn.repeat_interleave(self.k, 0)

    @property
    def _divisor(self) -> str:
        return f"k = {self.k}"
