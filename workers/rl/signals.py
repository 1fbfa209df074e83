"""Signals of an RL lane: the figures of an interval that policies may look at."""

from __future__ import annotations

from collections.abc import Mapping

SIGNALS: Mapping[str, str] = {
    "loss": "total loss of PPO without the layers' auxiliary losses, mean over the minibatches",
    "entropy": "entropy of the policy on the minibatches (nat)",
    "kl": "KL(old policy || new policy) on the last minibatch of each update (nat)",
    "gradient_norm": "global L2 norm of the gradient before clipping, mean over the minibatches",
    "explained_variance": (
        "1 - Var(target - value) / Var(target) of the values before each update (at most 1)"
    ),
    "return_share": (
        "mean return of ended episodes, 0 at the smallest and 1 at the largest return; none where "
        "no episode ended"
    ),
}
"""Signal -> what it is, and its unit; means over the updates of an interval."""


def signals(metrics: Mapping[str, float]) -> dict[str, float]:
    """The signals among an interval's metrics."""
    return {name: metrics[name] for name in SIGNALS if name in metrics}
