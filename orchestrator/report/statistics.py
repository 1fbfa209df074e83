"""Means over seeds with their 95 % intervals, and whether a difference is more than noise. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

LEVEL = 0.95
"""Confidence of every interval that is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over seeds; ``half`` = half width of its 95 % interval, None for a single value."""

    mean: float
    half: float | None
    count: int

    def text(self, digits: int = 3) -> str:
        """``0.812 ± 0.034``, or the mean alone."""
        mean = f"{self.mean:.{digits}f}"
        return mean if self.half is None else f"{mean} ± {self.half:.{digits}f}"

    @property
    def noise(self) -> bool:
        """Whether 0 lies inside the interval; a single value says nothing, so it counts as such."""
        return self.half is None or abs(self.mean) <= self.half


def estimate(values: Iterable[float]) -> Estimate | None:
    """Mean and interval by Student's t over independent values; None without any."""
    found = list(values)
    if not found:
        return None
    mean = statistics.fmean(found)
    if len(found) == 1:
        return Estimate(mean=mean, half=None, count=1)
    error = statistics.stdev(found) / len(found) ** 0.5
    return Estimate(mean=mean, half=quantile(len(found) - 1) * error, count=len(found))


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """``ours - theirs`` (seed -> value): by pairs where two seeds are in both, else of the means.

    Without pairs the interval is Welch's; None where one of them has no value.
    """
    shared = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    if len(shared) >= 2 or not ours or not theirs:
        return estimate(shared)
    mean = statistics.fmean(ours.values()) - statistics.fmean(theirs.values())
    count = min(len(ours), len(theirs))
    if count < 2:
        return Estimate(mean=mean, half=None, count=count)
    parts = [statistics.variance(side.values()) / len(side) for side in (ours, theirs)]
    total = sum(parts)
    if total == 0.0:
        return Estimate(mean=mean, half=0.0, count=count)
    each = zip(parts, (ours, theirs), strict=True)
    freedom = total**2 / sum(part**2 / (len(side) - 1) for part, side in each)
    return Estimate(mean=mean, half=quantile(freedom) * total**0.5, count=count)


def quantile(freedom: float) -> float:
    """Student's t that LEVEL of the distribution lies within, on both sides."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2))
