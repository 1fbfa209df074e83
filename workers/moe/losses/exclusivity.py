"""The exclusivity loss: a token belongs to old experts or to new ones, not to both."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from workers.moe.losses.base import Loss
from workers.moe.losses.groups import new_experts, scores
from workers.moe.routed import Routed


class Exclusivity(Loss):
    """Mean over tokens of ``g_old g_new`` (LLaVA-DyMoE, arXiv 2603.27481); 0 to 0.25.

    g: summed routing probability of the older experts, and of those of the latest growth, before a
    guard keeps any from the token. None before the first growth.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Loss.Config):
        """Settings of the exclusivity loss."""

        kind: str = "exclusivity"

    def loss(self, routed: Routed) -> Tensor | None:
        """See ``Loss.loss``."""
        new_E = new_experts(routed)
        if new_E is None:
            return None
        p_TE = scores(routed)
        return (p_TE[:, ~new_E].sum(1) * p_TE[:, new_E].sum(1)).mean()
