"""Factorisation: a dense feed-forward cut into blocks, of which a token runs some."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.moe.experts.feed_forward import FeedForward
from workers.moe.upcycles.base import Upcycle, check_counts


class Factorise(Upcycle):
    """Expert e is the e-th block of hidden units; half of the blocks run (arXiv 2408.11855).

    y = (E / k) sum of the k chosen blocks' shares of FFN(x), so that a part stands for the whole:
    with weights that add up to 1 the output map is E times the dense one's. FFN(x) itself at k = E
    with equal weights. Routers that know the blocks' errors are a fit of their own.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Upcycle.Config):
        """Number of blocks."""

        kind: str = "factorise"
        experts: int = 4
        """E: blocks of the feed-forward; must divide W."""
        k: int | None = None
        """Blocks that a token runs through; None = E / 2."""

        def __post_init__(self) -> None:
            check_counts(self.experts, self.k or max(1, self.experts // 2))

    @property
    def k(self) -> int:
        return self.config.k or max(1, self.experts // 2)

    @property
    def scale(self) -> float:  # type: ignore[override]
        return float(self.experts)

    def units(self, whole: FeedForward) -> list[Tensor]:
        return list(torch.arange(whole.hidden).chunk(self.experts))
