"""Signals of an RL lane: the figures of an interval that policies may look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Signal:
    """One figure of an interval: a mean over its updates, or over the episodes that ended in it."""

    unit: str
    meaning: str


SIGNALS: dict[str, Signal] = {
    "loss": Signal("-", "total loss of PPO without the layers' auxiliary losses"),
    "entropy": Signal("nat", "entropy of the policy on the batch"),
    "kl": Signal("nat", "KL(old policy || new policy) on the last minibatch of an update"),
    "gradient_norm": Signal("-", "global gradient norm before it is clipped"),
    "explained_variance": Signal(
        "share", "1 - Var(target - value) / Var(target) of the values before an update; at most 1"
    ),
    "return_share": Signal(
        "share", "mean return of ended episodes, 0 at the smallest and 1 at the largest return"
    ),
}
"""Name -> what it is; an interval in which no episode ended has no ``return_share``."""


def signals(metrics: Mapping[str, float]) -> dict[str, float]:
    """The signals among an interval's metrics."""
    return {name: metrics[name] for name in SIGNALS if name in metrics}
