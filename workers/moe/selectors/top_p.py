"""The top-p selector: as many experts as a token's routing probability needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from workers.moe.selection import Selection
from workers.moe.selectors.percentile_token import check_level
from workers.moe.selectors.ranked import Ranked


class TopP(Ranked):
    """The fewest experts whose probability together is above P: more where the router is unsure.

    ``p = softmax(g / T)``, ``t(x) = min{k : sum of the k largest p > P}``,
    ``y = sum over them of p_e E_e(x)``, p not renormalised (arXiv 2403.07652, equations 4 to 6).
    All experts where rounding keeps the sum below P. Loss ``router_entropy`` keeps the number from
    growing.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Ranked.Config):
        """Settings of the top-p selector."""

        kind: str = "top_p"
        p: float = 0.4
        """P: probability that the chosen experts exceed, 0 to 1."""
        weights: Literal["chosen", "full"] = "full"
        """The probabilities themselves, as printed, or renormalised over the chosen. A token sure
        of one expert gives it weight 1 when renormalised, and teaches the router nothing."""

        def __post_init__(self) -> None:
            check_level("p", self.p)
            Ranked.Config.__post_init__(self)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.level = config.p

    def active(self, experts: int) -> float:
        """``floor(P E) + 1``: what a router without preference needs, the most that any token can.

        A trained router needs fewer, how many depends on how sure it is (diagnostic
        ``experts_per_token``); widths and costs planned by this number are never exceeded.
        """
        return min(experts, math.floor(self.level * experts) + 1)

    def select(self, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool) -> Selection:
        """See ``Selector.select``; among some allowed experts, of the softmax over those."""
        noise_TE = self.noise_like(logits_TE, training)
        most = int(self.active(logits_TE.shape[1])) + 1  # one to spare where sums are rounded
        how = {"selector": "topp", "k": most, "level": self.level}
        return self.ranked(logits_TE, allowed_TE, noise_TE, varies=True, **how)
