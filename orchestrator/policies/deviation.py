"""How far a value lies from those before it, with what must be remembered for that."""

from __future__ import annotations

import math

from workers.contract import Json

FLOOR = 1e-12
"""Smallest standard deviation that is divided by."""


def deviation(value: float, memory: Json, decay: float) -> tuple[float, Json]:
    """z of a value against the exponential mean and variance of those before it, and these after.

    ``z = (v - m) / s``; then ``d = v - m``, ``m <- m + (1 - decay) d``,
    ``s^2 <- decay (s^2 + (1 - decay) d^2)``. The first value gives z = 0, m = v, s = 0. ``memory``:
    (m, s^2, how many values).
    """
    if memory is None:
        return 0.0, [value, 0.0, 1]
    mean, variance, count = memory
    distance = value - mean
    z = distance / max(math.sqrt(variance), FLOOR) if distance else 0.0
    mean += (1 - decay) * distance
    variance = decay * (variance + (1 - decay) * distance**2)
    return z, [mean, variance, count + 1]
