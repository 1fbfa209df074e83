"""Detectors of a change in a row of numbers, by name: those of river, and a deviation from the
running mean. Pure: a detector is built anew from the row each time it is asked.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

from orchestrator.policies.deviation import deviation

MISSING = "pip install 'growstage[drift]', or use detector 'jump'"
"""Cure where river is not there."""


class Change(NamedTuple):
    """A change of a row of numbers: the values after it began, and those before."""

    before: float
    """Mean of the values before."""
    after: float
    recent: int
    """Values since it began."""


class Detector:
    """Says whether the last of a row of numbers shows that their distribution has changed."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the detector; ``kind`` is its name in the table."""

        kind: str

    package: ClassVar[str] = ""
    """Optional package that it needs."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def change(self, values: Sequence[float]) -> Change | None:
        """The change that the last value shows; None where it shows none."""
        recent = self.recent(values)
        if recent is None:
            return None
        recent = max(1, min(recent, len(values) - 1))
        before, after = values[:-recent], values[-recent:]
        return Change(_mean(before), _mean(after), recent)

    def recent(self, values: Sequence[float]) -> int | None:
        """How many of the last values belong to what is new; None where nothing is."""
        raise NotImplementedError


class Jump(Detector):
    """One value far from the exponential mean of those before it, in standard deviations."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Detector.Config):
        """How far."""

        kind: str = "jump"
        z: float = 3.0
        """Standard deviations."""
        decay: float = 0.9
        """How slowly mean and variance follow, 0 to below 1."""
        warmup: int = 8
        """Values before it says anything."""

        def __post_init__(self) -> None:
            if not 0.0 <= self.decay < 1.0 or self.z <= 0.0 or self.warmup < 2:
                raise ValueError(
                    "decay must be from 0 to below 1, z above 0 and warmup at least 2, got "
                    f"{self.decay}, {self.z} and {self.warmup}"
                )

    config: Config

    def recent(self, values: Sequence[float]) -> int | None:
        memory, z = None, 0.0
        for value in values:
            z, memory = deviation(value, memory, self.config.decay)
        late = len(values) > self.config.warmup
        return 1 if late and abs(z) > self.config.z else None


class Adwin(Detector):
    """Adaptive windowing: two halves of a window whose means differ (Bifet and Gavalda, 2007)."""

    package = "river"

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Detector.Config):
        """Settings of river's ADWIN, which looks at every value here."""

        kind: str = "adwin"
        delta: float = 0.05
        """Bound of false alarms, above 0 and below 1; more than river's 0.002, since its bound is
        wide where values are few, as intervals are."""
        least: int = 3
        """Values of each half at least."""
        grace: int = 8
        """Values before it says anything."""

        def __post_init__(self) -> None:
            if not 0.0 < self.delta < 1.0 or self.least < 1 or self.grace < 1:
                raise ValueError(
                    "delta must be above 0 and below 1, least and grace at least 1, got "
                    f"{self.delta}, {self.least} and {self.grace}"
                )

    config: Config

    def recent(self, values: Sequence[float]) -> int | None:
        from river.drift import ADWIN

        made: Any = cast(Any, ADWIN)(
            delta=self.config.delta,
            clock=1,
            min_window_length=self.config.least,
            grace_period=self.config.grace,
        )
        return int(made.width) if _fed(made, values) else None


class Kswin(Detector):
    """Kolmogorov-Smirnov test of the last values against a sample of those before (2007.05432)."""

    package = "river"

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Detector.Config):
        """Settings of river's KSWIN."""

        kind: str = "kswin"
        alpha: float = 0.005
        """Level of each test; there is one for every value."""
        window: int = 32
        """Values that are looked at."""
        recent: int = 10
        """Of these, the last ones that are compared with as many of the others."""
        seed: int = 0
        """Of the sample of the others."""

        def __post_init__(self) -> None:
            if not 0.0 < self.alpha < 1.0 or not 1 <= self.recent < self.window:
                raise ValueError(
                    "alpha must be above 0 and below 1, recent at least 1 and below window, got "
                    f"{self.alpha}, {self.recent} and {self.window}"
                )
            if self.window < 2 * self.recent:
                raise ValueError(f"window must be at least 2 recent, got {self.window}")

    config: Config

    def recent(self, values: Sequence[float]) -> int | None:
        from river.drift import KSWIN

        config = self.config
        made = KSWIN(
            alpha=config.alpha, window_size=config.window, stat_size=config.recent, seed=config.seed
        )
        return config.recent if _fed(made, values) else None


class PageHinkley(Detector):
    """Sum of the distances from the mean, less what is tolerated (Page 1954)."""

    package = "river"

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Detector.Config):
        """Settings of river's PageHinkley; ``delta`` and ``threshold`` in the signal's unit."""

        kind: str = "page_hinkley"
        delta: float = 0.005
        """Distance from the mean that is tolerated."""
        threshold: float = 0.5
        """Sum of distances from which there is a change."""
        least: int = 8
        """Values before it says anything."""
        recent: int = 3
        """Values that count as new when it does."""

        def __post_init__(self) -> None:
            if self.delta < 0.0 or self.threshold <= 0.0 or min(self.least, self.recent) < 1:
                raise ValueError(
                    "delta must not be negative, threshold above 0, least and recent at least 1, "
                    f"got {self.delta}, {self.threshold}, {self.least} and {self.recent}"
                )

    config: Config

    def recent(self, values: Sequence[float]) -> int | None:
        from river.drift import PageHinkley as Made

        made = Made(
            min_instances=self.config.least,
            delta=self.config.delta,
            threshold=self.config.threshold,
            alpha=1.0,
        )
        return self.config.recent if _fed(made, values) else None


DETECTORS: dict[str, type] = {
    "adwin": Adwin,
    "kswin": Kswin,
    "page_hinkley": PageHinkley,
    "jump": Jump,
}
"""Detectors by name."""


def absent(cls: type[Detector]) -> bool:
    """Whether the package that it needs is not there."""
    return bool(cls.package) and importlib.util.find_spec(cls.package) is None


def _fed(detector: Any, values: Sequence[float]) -> bool:
    """Whether one of river's detectors shows a change at the last of the values."""
    for value in values:
        detector.update(value)
    return bool(detector.drift_detected)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
