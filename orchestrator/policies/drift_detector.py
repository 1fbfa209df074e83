"""Growth where a detector finds that a signal has changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.policies.base import View
from orchestrator.policies.detectors import DETECTORS, MISSING, Detector, absent
from orchestrator.policies.growing import Evidence, Triggered
from orchestrator.policies.signals import seen
from workers.contract import Json, LaneSettings
from workers.tables import Problem, choice, construct, lookup


class DriftDetector(Triggered):
    """Grows where a drift detector finds a signal changed: ADWIN, KSWIN, Page-Hinkley or a jump.

    Detectors are no values: what is remembered, and journalled with every decision, is the row of
    the signal's last ``keep`` values, about 20 bytes each, and the detector is built from them at
    every decision. So it never knows more than ``keep`` values, where river's own goes on
    for ever. A change the other way than ``direction``, such as a loss that is learnt down, grows
    nothing; in either case only the values since it began stay.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Triggered.Config):
        """The signal, the detector, and which changes count."""

        kind: str = "drift_detector"
        signal: str = "loss"
        """Name of any signal, ``usage_entropy`` included."""
        detector: Any = choice(DETECTORS, "jump")
        """What looks at it."""
        direction: Literal["up", "down", "any"] = "up"
        """Which way the signal must have changed."""
        keep: int = 128
        """Values that are remembered at most."""

        def __post_init__(self) -> None:
            Triggered.Config.__post_init__(self)
            if self.patience != 1:
                raise ValueError(f"patience must be 1, a change comes once; got {self.patience}")
            if self.keep < 8:
                raise ValueError(f"keep must be at least 8, got {self.keep}")

        @property
        def watched(self) -> tuple[str, ...]:
            return (self.signal,)

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """The detector's package must be there."""
            found = Triggered.Config.problems(self, lane)
            cls: Any = lookup(DETECTORS, self.detector.kind, "detector")
            if absent(cls):
                what = f"{self.detector.kind!r} needs the package {cls.package}"
                found.append(Problem("detector", what, MISSING))
            return found

    config: Config

    def look(self, view: View, memory: Json) -> tuple[Evidence | None, Json]:
        values = list(memory or ())
        value = seen(view, self.config.signal)
        if value is None:
            return None, values
        values = [*values, value][-self.config.keep :]
        detector: Detector = construct(DETECTORS, self.config.detector)
        change = detector.change(values) if len(values) > 1 else None
        if change is None:
            return None, values
        values = values[-change.recent :]
        way = "up" if change.after > change.before else "down"
        if self.config.direction not in (way, "any"):
            return None, values
        figures = {"before": change.before, "after": change.after, "values": float(change.recent)}
        return Evidence(f"{self.config.signal} drifts {way}", figures), values
