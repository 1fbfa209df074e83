"""Percentile routing as printed: a token's threshold is a percentile of its own scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from workers.moe.selection import Selection
from workers.moe.selectors.ranked import Ranked


class PercentileToken(Ranked):
    """Experts whose score reaches a percentile of the token's own scores.

    ``S(x) = {e : g_e(x) >= P_tau(g(x))}``, ``w = softmax over S of g_e / T`` (DynaMoE, arXiv
    2603.01697, equations 4 to 7 in its text), the percentile with linear interpolation. The number
    of experts is the same for every token, ties apart: ``E - ceil(tau (E - 1))``, that is 3, 2, 2,
    1, 1 of 8, 6, 5, 4, 3 at tau = 0.7; it is top-k with another name for k. ``percentile_batch``
    and ``top_p`` have a number that varies. Where it is 1 the softmax over the chosen is 1
    whatever the router says, and ``weights = "full"`` is needed for the router to learn.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Ranked.Config):
        """Settings of percentile routing by token; defaults are DynaMoE's."""

        kind: str = "percentile_token"
        level: float = 0.7
        """tau: the percentile as a fraction, 0 = all experts, 1 = the best only."""
        temperature: float = 0.5
        """T: logits are divided by it before the softmax."""
        noise: float = 0.1
        """Standard deviation of the Gaussian noise on the logits in training."""

        def __post_init__(self) -> None:
            check_level("level", self.level)
            Ranked.Config.__post_init__(self)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.level = config.level

    def active(self, experts: int) -> float:
        """``E - ceil(tau (E - 1))``, exactly where no scores tie."""
        return experts - math.ceil(self.level * (experts - 1))

    def select(self, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool) -> Selection:
        """See ``Selector.select``; among some allowed experts, a percentile of those."""
        noise_TE = self.noise_like(logits_TE, training)
        how = {"selector": "percentile", "k": logits_TE.shape[1], "level": self.level}
        return self.ranked(logits_TE, allowed_TE, noise_TE, varies=True, **how)


def check_level(name: str, level: float) -> None:
    """Refuse a fraction that is none."""
    if not 0.0 <= level <= 1.0:
        raise ValueError(f"{name} must be from 0 to 1, got {level}")
