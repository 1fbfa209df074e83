"""The importance loss: pushes the experts' sums of gate weights towards each other."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from workers.moe.losses.base import Loss
from workers.moe.routed import Routed


class Importance(Loss):
    """``CV(Importance(X))^2``, Importance = each expert's sum of gate weights over the batch.

    Shazeer et al. 2017 (arXiv 1701.06538, equations 6 and 7); 0 where all sums are equal.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Loss.Config):
        """Settings of the importance loss."""

        kind: str = "importance"
        weight: float = 0.1
        """Factor of the loss."""

    def loss(self, routed: Routed) -> Tensor:
        """See ``Loss.loss``."""
        return squared_cv(routed.weights.sum(0))


def squared_cv(values_E: Tensor) -> Tensor:
    """Squared coefficient of variation, ``var_e / mean_e^2``; 0 where all values are 0."""
    return values_E.var(correction=0) / values_E.mean().square().clamp(min=1e-10)
