"""Projects a run's journal beside the run, so that a slow or dead store never delays training.

Knows no MLflow: anything that can ``project`` will do.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Protocol

from workers.contract import RunError

LONGEST_PAUSE_S = 15.0
"""Between two tries to reach a store that is away."""


class TrackingAway(RunError):  # noqa: N818  (a state, not a fault of the run)
    """The store does not answer or refuses; the offset stays where it was."""


class Projects(Protocol):
    """What brings a store up to date with a journal."""

    def project(self) -> int: ...


class BackgroundTracker:
    """Projects beside the run, in a thread of its own; a store that is away is said once."""

    def __init__(
        self,
        tracker: Projects,
        say: Callable[[str], None] | None = None,
        every: float = 1.0,
        patience: float = 30.0,
    ) -> None:
        """``every``: seconds between projections; ``patience``: seconds the last one may take."""
        self._tracker = tracker
        self._say = say or to_stderr
        self._every, self._pause, self._patience = every, every, patience
        self._stop = threading.Event()
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
        """Flush a last time, within ``patience``; whether the store shows all of the journal."""
        self._stop.set()
        self._thread.join(self._patience)
        shown = self._current and not self._thread.is_alive()
        if not shown:
            self._say("MLflow is behind the journal; resuming the run lets it catch up")
        return shown

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

    def _project(self) -> None:
        self._current = False
        try:
            self._tracker.project()
        except TrackingAway as error:
            if not self._away:
                self._say(
                    f"MLflow takes no writes; training goes on, it catches up later ({error})"
                )
            self._away, self._pause = True, min(2 * self._pause, LONGEST_PAUSE_S)
            return
        if self._away:
            self._say("MLflow answers again and has caught up")
        self._current, self._away, self._pause = True, False, self._every


def to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
