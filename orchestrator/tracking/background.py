"""Projects a run's journal beside the run, so that a slow or dead store never delays training.

Knows no MLflow: anything that can ``project`` will do.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from workers.contract import RunError

LONGEST_PAUSE_S = 15.0
"""Between two projections, and between two tries to reach a store that is away."""
SHARE = 0.2
"""Of the time that is to go into projecting beside a run, whose workers need the processors; where
it takes so long that rests reach LONGEST_PAUSE_S, it is more."""
SAID_AFTER_S = 5.0
"""From which on a last flush that goes on is told."""
LAST_WRITE_S = 5.0
"""In which a write under way may end once the flush is given up."""


GoOn = Callable[[], bool]
"""Asked between writes to a store: shall there be more?"""


def always() -> bool:
    """Nothing stops it."""
    return True


class TrackingAway(RunError):  # noqa: N818  (a state, not a fault of the run)
    """The store does not answer or refuses; the offset stays where it was."""


class Projects(Protocol):
    """What brings a store up to date with a journal."""

    def project(self, go_on: GoOn = always) -> int: ...


class BackgroundTracker:
    """Projects beside the run, in a thread of its own; a store that is away is said once."""

    def __init__(
        self,
        tracker: Projects,
        say: Callable[[str], None] | None = None,
        every: float = 1.0,
        patience: float = 30.0,
    ) -> None:
        """``every``: seconds between projections at least, more where they take long (``SHARE``);
        ``patience``: seconds for which the last one may write nothing before it is given up."""
        self._tracker = tracker
        self._say = say or to_stderr
        self._every, self._pause, self._patience = every, every, patience
        self._stop = threading.Event()
        self._given_up = False
        self._moved = 0.0
        """Moment (monotonic) at which it was last seen to go on."""
        self._away = False
        self._current = False
        """Whether the last projection showed all that the journal held."""
        self._thread = threading.Thread(target=self._loop, name="growstage-tracking", daemon=True)

    def __enter__(self) -> BackgroundTracker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self) -> bool:
        """Flush a last time; whether the store shows all of the journal.

        The thread is not left behind: it stops between two writes, or hangs in one.
        """
        self._stop.set()
        with suppress(KeyboardInterrupt):
            self._wait()
        self._given_up = True
        self._thread.join(LAST_WRITE_S)
        shown = self._current and not self._thread.is_alive()
        if not shown:
            self._say("MLflow is behind the journal; resuming the run lets it catch up")
        return shown

    def _wait(self) -> None:
        """Until the thread has ended, or has not moved for as long as ``patience``."""
        began = self._moved = time.monotonic()
        said = False
        while self._thread.is_alive() and time.monotonic() < self._moved + self._patience:
            self._thread.join(0.2)
            if not said and time.monotonic() > began + SAID_AFTER_S and self._thread.is_alive():
                self._say("MLflow is brought up to date; ^C leaves the rest to a resume")
                said = True

    def _loop(self) -> None:
        try:
            while not self._stop.wait(self._pause):
                self._project()
            self._project()
        except Exception as error:  # this thread's end: nobody else would tell the user
            self._say(
                f"tracking has failed, training goes on without it ({type(error).__name__}: "
                f"{error})"
            )

    def _goes_on(self) -> bool:
        self._moved = time.monotonic()
        return not self._given_up

    def _project(self) -> None:
        self._current, began = False, time.monotonic()
        try:
            self._tracker.project(self._goes_on)
        except TrackingAway as error:
            if not self._away:
                self._say(
                    f"MLflow takes no writes; training goes on, it catches up later ({error})"
                )
            self._away, self._pause = True, min(2 * self._pause, LONGEST_PAUSE_S)
            return
        if self._away:
            self._say("MLflow answers again and has caught up")
        self._current, self._away = not self._given_up, False
        rest = (time.monotonic() - began) * (1 - SHARE) / SHARE
        self._pause = min(max(self._every, rest), max(self._every, LONGEST_PAUSE_S))


def to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
