"""The top-k selector: only the chosen experts run, on their own tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from workers.moe.selection import Selection
from workers.moe.selectors.base import check_weights
from workers.moe.selectors.ranked import Ranked


class TopK(Ranked):
    """The k largest logits of each token, weighted by a softmax over the chosen or over all."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Ranked.Config):
        """Settings of the top-k selector; k = 1 needs weights "full" for its router to learn."""

        kind: str = "topk"
        k: int = 2
        """Experts for each token (all of them while there are fewer)."""

        def __post_init__(self) -> None:
            if self.k < 1:
                raise ValueError(f"k must be at least 1, got {self.k}")
            # super() has no cell to look in here: a dataclass with slots is a second class.
            Ranked.Config.__post_init__(self)
            check_weights("k", self.k, self.weights)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.k = config.k

    @property
    def fewest(self) -> int:
        return self.k

    def active(self, experts: int) -> float:
        """k, or all while there are fewer."""
        return min(self.k, experts)

    def select(self, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool) -> Selection:
        """See ``Selector.select``."""
        noise_TE = self.noise_like(logits_TE, training)
        return self.ranked(logits_TE, allowed_TE, noise_TE, varies=False, selector="topk", k=self.k)
