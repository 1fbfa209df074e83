"""The router z-loss: keeps logits small, so that rounding does not move the choice."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from workers.moe.losses.base import Loss
from workers.moe.routed import Routed


class ZLoss(Loss):
    """Mean over tokens of (log sum_e exp logit_e)^2 (ST-MoE, arXiv 2202.08906, equation 5)."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Loss.Config):
        """Settings of the z-loss."""

        kind: str = "z"
        weight: float = 0.001
        """Factor of the loss (ST-MoE: 0.001)."""

    def loss(self, routed: Routed) -> Tensor:
        """See ``Loss.loss``."""
        return routed.logits.logsumexp(-1).square().mean()
