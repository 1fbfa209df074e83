"""Growth where learning stands still."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orchestrator.policies.base import View
from orchestrator.policies.growing import Evidence, Triggered
from orchestrator.policies.signals import seen
from workers.contract import Json, LaneSettings
from workers.tables import Problem


class Plateau(Triggered):
    """Grows where a signal, the loss, no longer falls from one window of intervals to the next.

    With m_1 the mean of the last ``window`` intervals and m_0 of those before them: evidence where
    ``m_0 - m_1 <= least |m_0|`` and ``m_1 > above``. Remembers 2 ``window`` values.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Triggered.Config):
        """What must fall, by how much, and over how long."""

        kind: str = "plateau"
        signal: str = "loss"
        """Name of the signal that is to fall."""
        least: float = 0.02
        """Share of the earlier mean by which the later one must be lower."""
        window: int = 3
        """Intervals of each mean."""
        above: float | None = None
        """No evidence where the signal is no higher than this: good enough; None = never."""
        over: Literal["stage", "stream"] = "stage"
        """``stage``: each stage is looked at by itself; ``stream``: windows reach over stages,
        where these are no tasks."""

        def __post_init__(self) -> None:
            Triggered.Config.__post_init__(self)
            if self.window < 1 or not 0.0 <= self.least < 1.0:
                raise ValueError(
                    "window must be at least 1 and least from 0 to below 1, got "
                    f"{self.window} and {self.least}"
                )

        @property
        def watched(self) -> tuple[str, ...]:
            return (self.signal,)

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Two windows must fit."""
            found = Triggered.Config.problems(self, lane)
            room = lane.intervals * (1 if self.over == "stage" else len(lane.tasks))
            if 2 * self.window > room:
                what = f"two windows of {self.window} intervals, and there are {room}"
                allowed = "raise training.intervals, or lower window"
                found.append(Problem("window", what, allowed))
            return found

    config: Config

    def look(self, view: View, memory: Json) -> tuple[Evidence | None, Json]:
        values = list(memory or ())
        if view.n == 0:
            return None, values if self.config.over == "stream" else []
        value = seen(view, self.config.signal)
        if value is None:
            return None, values
        size = self.config.window
        values = [*values, value][-2 * size :]
        if len(values) < 2 * size:
            return None, values
        before, now = sum(values[:size]) / size, sum(values[size:]) / size
        low = self.config.above is not None and now <= self.config.above
        if low or before - now > self.config.least * abs(before):
            return None, values
        return Evidence("flat", {"before": before, "now": now}), values
