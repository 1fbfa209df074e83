"""The balance loss: pushes the router to give every expert the same share of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from workers.moe.losses.base import Loss
from workers.moe.losses.groups import new_experts
from workers.moe.routed import Routed


class Balance(Loss):
    """E sum_e f_e P_e (Switch Transformer, arXiv 2101.03961, equation 4); 1 when balanced.

    Of the new experts alone it is that of tokens that chose one of them, among them: n the new
    experts, f_e the share by the first of them, P_e the mean of probabilities that sum to 1 over
    them. None before the first growth.

    f_e: share of tokens whose first choice is e, without gradient, that of the router where a token
    was dropped; P_e: mean probability of e.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Loss.Config):
        """Settings of the balance loss."""

        kind: str = "balance"
        weight: float = 0.01
        """Factor of the loss (Switch: 0.01)."""
        probabilities: Literal["full", "selected"] = "full"
        """P_e from the softmax over all experts, as printed, or from the weights of the chosen."""

        experts: Literal["all", "new"] = "all"
        """Whose load it balances: ``new``, of the latest growth alone (LLaVA-DyMoE, arXiv
        2603.27481)."""

    def loss(self, routed: Routed) -> Tensor | None:
        """See ``Loss.loss``."""
        full = self.config.probabilities == "full"
        weights_TE = routed.weights
        p_TE = routed.probabilities if full else weights_TE
        if self.config.experts == "all":
            any_T1 = routed.chosen.any(-1, keepdim=True)
            ranked_TE = torch.where(any_T1, weights_TE, routed.probabilities)
            return _balance(ranked_TE, p_TE, weights_TE.new_ones(len(weights_TE)))
        new_E = new_experts(routed)
        if new_E is None:
            return None
        p_TE = p_TE[:, new_E] / p_TE[:, new_E].sum(1, keepdim=True).clamp_min(1e-9)
        chose_T = routed.chosen[:, new_E].any(1).to(p_TE)
        return _balance(weights_TE[:, new_E], p_TE, chose_T)


def _balance(ranked_TE: Tensor, p_TE: Tensor, counts_T: Tensor) -> Tensor:
    """E sum_e f_e P_e over the tokens that count; 0 where none does."""
    experts = ranked_TE.shape[1]
    first_TE = nn.functional.one_hot(ranked_TE.detach().argmax(-1), experts).to(p_TE)
    share_T = (counts_T / counts_T.sum().clamp_min(1)).unsqueeze(1)
    return experts * ((first_TE * share_T).sum(0) * (p_TE * share_T).sum(0)).sum()
