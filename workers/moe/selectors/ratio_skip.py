"""Ratio skip: an expert that weighs little beside the token's first one is not run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.contract import LaneSettings
from workers.moe.selection import Selection, exact
from workers.moe.selectors.around import Around
from workers.moe.selectors.base import one_learner
from workers.tables import Problem


class RatioSkip(Around):
    """Expert j of a token is skipped if ``g_j / g_1 < mu``, g_1 its largest weight.

    MC-MoE (arXiv 2410.06270), for the experts of any selector. The weights that remain are scaled
    to the sum that all had. Without a ``mu`` it is the median of ``g_2 / g_1`` over tokens in
    training: a running mean of the batches' medians, which is close to the median of all tokens
    while the batches are alike. Tokens that the source protects by their attention are not told
    apart: a layer sees no attention.
    """

    median: Tensor

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Around.Config):
        """Settings of the ratio skip."""

        kind: str = "ratio_skip"
        mu: float | None = None
        """Smallest ratio that is kept, 0 to 1; None = the median over training."""
        in_training: bool = False
        """Whether training skips too; the source skips in inference only."""
        momentum: float = 0.99
        """Of the running median, by training batches."""

        def __post_init__(self) -> None:
            if not (self.mu is None or 0 <= self.mu <= 1) or not 0 <= self.momentum < 1:
                raise ValueError(
                    "mu must be between 0 and 1 and momentum at least 0 and below 1, got "
                    f"{self.mu} and {self.momentum}"
                )

        @property
        def chooses_all(self) -> bool:
            """Never known beforehand."""
            return False

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """What learns from what it does must do what it learns with; one learner's median."""
            if not lane.acts or (self.in_training and self.mu is not None):
                return one_learner(lane) if self.mu is None else []
            allowed = "a lane that acts must skip alike in both: give mu and in_training = true"
            return [Problem("in_training", "training and acting would differ", allowed)]

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.register_buffer("median", torch.full((), -1.0))  # below 0 = nothing measured yet

    def forward(
        self, x_TD: Tensor, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool
    ) -> Selection:
        """See ``Selector.forward``."""
        whole = super().forward(x_TD, logits_TE, allowed_TE, training)
        weights_TE = exact(whole.weights_TE)
        ratios_TE = _ratios(weights_TE.detach())
        mu = self.config.mu
        if mu is None:
            if training:
                self._measure(ratios_TE)
            mu = self.median
        if training and not self.config.in_training:
            return whole
        kept_TE = whole.chosen_TE & (ratios_TE >= mu)
        kept = weights_TE * kept_TE
        total = weights_TE.sum(1, keepdim=True)
        scaled_TE = kept * (total / kept.sum(1, keepdim=True).clamp_min(1e-9))
        return Selection(
            kept_TE,
            scaled_TE.to(whole.weights_TE.dtype),
            probabilities_TE=whole.probabilities_TE,
            sums=whole.sums,
        )

    def _measure(self, ratios_TE: Tensor) -> None:
        """Follow the median over tokens with a second expert."""
        if ratios_TE.shape[1] < 2:
            return
        second_T = ratios_TE.topk(2, dim=1).values[:, 1]
        second_T = second_T[second_T > 0]
        if len(second_T) == 0:
            return
        found, rest = second_T.median(), self.config.momentum
        moved = rest * self.median + (1 - rest) * found
        self.median = torch.where(self.median < 0, found, moved)


def _ratios(weights_TE: Tensor) -> Tensor:
    """``g_j / g_1`` of each token's weights [T, E], 0 where it has none."""
    return weights_TE / weights_TE.amax(1, keepdim=True).clamp_min(1e-9)
