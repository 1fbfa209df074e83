"""The specialisation loss of new experts: they take what the old ones are unsure of."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from workers.moe.losses.base import Loss
from workers.moe.losses.groups import new_experts, scores
from workers.moe.routed import Routed


class NewSpecialisation(Loss):
    """``BCE(g_new, 1 - max_old w)``, mean over tokens (LLaVA-DyMoE, arXiv 2603.27481).

    g_new: summed routing probability of the experts of the latest growth; the target, without
    gradient, is what the surest older expert leaves. w is the softmax over all experts, before a
    guard keeps any from the token. None before the first growth. With a single older expert the
    target is g_new itself and nothing is learnt.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Loss.Config):
        """Settings of the specialisation loss."""

        kind: str = "new_specialisation"

    def loss(self, routed: Routed) -> Tensor | None:
        """See ``Loss.loss``."""
        new_E = new_experts(routed)
        if new_E is None:
            return None
        p_TE = scores(routed)
        new_T = p_TE[:, new_E].sum(1).clamp(0.0, 1.0)
        unsure_T = 1 - p_TE[:, ~new_E].detach().amax(1)
        return functional.binary_cross_entropy(new_T, unsure_T)
