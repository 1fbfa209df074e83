"""What time it is: told apart so that a decision's surroundings can be run without it."""

from __future__ import annotations

import time


class Clock:
    """The machine's clocks."""

    def now(self) -> float:
        """Seconds since the epoch; may jump either way."""
        return time.time()

    def moment(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


CLOCK = Clock()
