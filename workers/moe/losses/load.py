"""The load loss: how evenly tokens are spread, as a smooth function of the scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.moe.losses.base import Loss
from workers.moe.losses.importance import squared_cv
from workers.moe.routed import Routed


class Load(Loss):
    """``CV(Load(X))^2``, ``Load(X)_e = sum_x P(x, e)`` (arXiv 1701.06538, equations 8 to 11).

    ``P(x, e) = Phi((s_e(x) - m_e(x)) / sigma_e(x))``: the probability that e is chosen if its noise
    alone is drawn again; s: scores without noise, sigma: size of the noise, m: the k-th largest of
    the noisy scores of the other experts, k the number that the token chose. A router with noise
    brings it along (``noisy``).
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Loss.Config):
        """Settings of the load loss."""

        kind: str = "load"
        weight: float = 0.1
        """Factor of the loss."""

    def loss(self, routed: Routed) -> Tensor:
        """See ``Loss.loss``."""
        return squared_cv(load(routed))


def load(routed: Routed) -> Tensor:
    """Expected number of tokens of each expert [E]."""
    router: Any = routed.router
    still_TE, spread_TE = router.still(routed.x).float(), router.spread(routed.x).float()
    open_TE = routed.probabilities > 0
    noisy_TE = routed.logits.float().masked_fill(~open_TE, float("-inf"))
    k_T1 = routed.chosen.sum(1, keepdim=True)
    ranked_TE = torch.sort(noisy_TE, dim=1, descending=True).values
    none_T1 = torch.full_like(ranked_TE[:, :1], float("-inf"))
    ranked_TE = torch.cat([ranked_TE, none_T1], 1)
    # without the expert itself, the k-th of the others is one place further down if it is chosen
    least_TE = torch.where(
        routed.chosen, ranked_TE.gather(1, k_T1), ranked_TE.gather(1, (k_T1 - 1).clamp(min=0))
    )
    sure_TE = least_TE == float("-inf")
    away_TE = (still_TE - least_TE.masked_fill(sure_TE, 0.0)) / spread_TE
    chance_TE = torch.special.ndtr(away_TE).masked_fill(sure_TE, 1.0)
    return torch.where(open_TE, chance_TE, 0.0).sum(0)
