"""The router's entropy as a loss: makes it sure of its choice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.moe.losses.base import Loss
from workers.moe.routed import Routed


class RouterEntropy(Loss):
    """Mean over tokens of the entropy ``-sum_e p_e ln p_e`` of the routing probabilities.

    Keeps top-p routing from using ever more experts (arXiv 2403.07652, equation 7). 0 = sure of
    one expert, ln E = without preference.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Loss.Config):
        """Settings of the entropy loss."""

        kind: str = "router_entropy"
        weight: float = 1e-4
        """Factor of the loss."""

    def loss(self, routed: Routed) -> Tensor:
        """See ``Loss.loss``; probability 0, of an expert that is not allowed, adds nothing."""
        p_TE = routed.probabilities
        least = torch.finfo(p_TE.dtype).tiny
        return -(p_TE * p_TE.clamp_min(least).log()).sum(-1).mean()
