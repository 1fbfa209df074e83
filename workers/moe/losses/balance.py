"""The balance loss: pushes the router to give every expert the same share of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from workers.moe.losses.base import Loss
from workers.moe.routed import Routed


class Balance(Loss):
    """E sum_e f_e P_e (Switch Transformer, arXiv 2101.03961, equation 4); 1 when balanced.

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

    def loss(self, routed: Routed) -> Tensor:
        """See ``Loss.loss``."""
        experts = routed.weights.shape[1]
        any_T1 = routed.chosen.any(-1, keepdim=True)
        first_T = torch.where(any_T1, routed.weights, routed.probabilities).detach().argmax(-1)
        share_E = nn.functional.one_hot(first_T, experts).to(routed.weights).mean(0)
        full = self.config.probabilities == "full"
        mean_E = (routed.probabilities if full else routed.weights).mean(0)
        return experts * (share_E * mean_E).sum()
