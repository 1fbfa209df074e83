"""What an interval of a supervised lane measured: losses, gradient norms, and signals from them.

Signals are what growth triggers look at. All are the same on every worker and in every rerun.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

NORM_STEPS = 4
"""Steps of an interval, evenly spread, at which the gradient norm is measured."""

SIGNALS: Mapping[str, str] = {
    "loss": "mean loss over the interval's steps, auxiliary losses included (the objective's unit)",
    "loss_slope": "least-squares slope of the loss over the interval's steps (loss per step)",
    "gradient_norm": (
        "global L2 norm of the gradient before clipping, mean over the steps at which it is "
        f"measured: all where training.clip is set, else {NORM_STEPS} spread over the interval"
    ),
    "train_score": (
        "score (0 to 1) at the interval's end on a seeded sample of the stage's training part"
    ),
    "routing_flips": (
        "share (0 to 1) of that sample's tokens whose heaviest expert became another one within "
        "the interval, in the routed layer where it is largest; 0 without routed layers"
    ),
}
"""Signal -> what it is, and its unit."""


class Interval:
    """The figures of an interval's steps; they stay on the device until they are read."""

    def __init__(self, first: int, steps: int, always: bool) -> None:
        """``first``: number of the interval's first step; ``always``: measure every norm."""
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.terms: defaultdict[str, list[Tensor]] = defaultdict(list)
        """Auxiliary loss -> its value at each pass, weighted by the share of the step's samples."""
        count = min(NORM_STEPS, steps)
        spread = {first + (steps * (k + 1)) // count - 1 for k in range(count)}
        self.measured = set(range(first, first + steps)) if always else spread
        """Steps at which the gradient norm is measured."""

    def metrics(self) -> dict[str, float]:
        """Mean loss and gradient norm."""
        return {
            "loss": torch.stack(self.losses).mean().item(),
            "gradient_norm": torch.stack(self.norms).mean().item(),
        }

    def signals(
        self, metrics: Mapping[str, float], train_score: float, routing_flips: float
    ) -> dict[str, float]:
        """Every entry of SIGNALS; ``metrics``: what the method of that name gave."""
        return {
            **metrics,
            "loss_slope": slope(torch.stack(self.losses)),
            "train_score": train_score,
            "routing_flips": routing_flips,
        }

    def sums(self) -> dict[str, Tensor]:
        """Auxiliary loss -> its sum over the steps, float64, of this worker's shares."""
        return {name: torch.stack(values).double().sum() for name, values in self.terms.items()}


def slope(values: Tensor) -> float:
    """Least-squares slope of values [n] over 0, 1, ..., n - 1; 0 for a single one."""
    y = values.double().cpu()
    x = torch.arange(len(y), dtype=torch.float64)
    x = x - x.mean()
    spread = x.square().sum()
    return float((x * (y - y.mean())).sum() / spread) if len(y) > 1 else 0.0
