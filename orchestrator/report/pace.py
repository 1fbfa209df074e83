"""How fast work goes on, and how long what is left will take. Pure: moments come from events."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """Intervals done since a moment; those done before it say nothing of the speed now."""

    began: float
    last: float
    done: int = 0

    @classmethod
    def begin(cls, at: float) -> Pace:
        """Nothing done yet."""
        return cls(at, at)

    def tick(self, at: float) -> Pace:
        """One interval more."""
        return Pace(self.began, at, self.done + 1)

    def left(self, intervals: int) -> float | None:
        """Seconds that so many intervals more will take; None before the first is done."""
        return (self.last - self.began) / self.done * intervals if self.done else None


def span(seconds: float | None) -> str:
    """``0:42``, ``12:05`` or ``3:12:05``; ``-`` where it is not known."""
    if seconds is None:
        return "-"
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
