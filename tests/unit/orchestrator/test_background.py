"""The tracker beside a run: what it says and answers where the store, or it itself, fails."""

from __future__ import annotations

import threading
import time

from orchestrator.tracking.background import BackgroundTracker, GoOn, TrackingAway, always
from workers.contract import RunError


class Projects:
    """Raises what it is given, in order; then projects."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    def project(self, go_on: GoOn = always) -> int:
        if self.errors:
            raise self.errors.pop(0)
        return 0


def said(*errors: Exception) -> tuple[bool, list[str]]:
    """(whether all is shown, what was said) of a tracker that is finished at once."""
    told: list[str] = []
    background = BackgroundTracker(Projects(*errors), told.append, every=60.0, patience=5.0)
    return background.__enter__().finish(), told


def test_all_is_shown_where_the_last_projection_succeeded() -> None:
    assert said() == (True, [])


def test_a_store_that_is_away_leaves_it_behind() -> None:
    shown, told = said(TrackingAway("refused"))
    assert not shown
    assert [text.partition(";")[0] for text in told] == [
        "MLflow takes no writes",
        "MLflow is behind the journal",
    ]


def test_an_error_nobody_thought_of_is_told_and_counts_as_behind() -> None:
    shown, told = said(KeyError("lane"))
    assert not shown
    assert "KeyError: 'lane'" in told[0]
    assert told[1].startswith("MLflow is behind the journal")


def test_a_store_that_is_away_ends_a_command_with_a_message() -> None:
    assert issubclass(TrackingAway, RunError), "commands end with a traceback upon anything else"


class Slow:
    """Writes ``count`` times, each ``seconds`` long."""

    def __init__(self, count: int, seconds: float) -> None:
        self.count, self.seconds, self.written = count, seconds, 0

    def project(self, go_on: GoOn = always) -> int:
        while self.written < self.count and go_on():
            time.sleep(self.seconds)
            self.written += 1
        return self.written


def test_a_last_flush_that_goes_on_is_waited_for() -> None:
    """Figures of a hundred lanes took longer than the patience, and were left out."""
    told: list[str] = []
    slow = Slow(20, 0.1)
    assert BackgroundTracker(slow, told.append, every=60.0, patience=0.5).__enter__().finish()
    assert slow.written == 20
    assert told == []


def test_it_leaves_the_processors_to_the_workers() -> None:
    """Projecting without pause, it took half of one of two processors from the training."""

    class Counted:
        calls = 0

        def project(self, go_on: GoOn = always) -> int:
            self.calls += 1
            time.sleep(0.2)
            return 0

    counted = Counted()
    background = BackgroundTracker(counted, every=0.01, patience=5.0).__enter__()
    time.sleep(2.5)
    beside = counted.calls
    assert background.finish()
    assert 1 <= beside <= 3, "a second from one to the next"
    assert counted.calls == beside + 1


def test_what_is_given_up_stops_after_its_write() -> None:
    """A thread that drew on while the process ended took it down (exit code 134)."""
    told: list[str] = []
    slow = Slow(20, 1.0)
    background = BackgroundTracker(slow, told.append, every=60.0, patience=0.5).__enter__()
    assert not background.finish()
    assert slow.written == 1
    assert "growstage-tracking" not in {thread.name for thread in threading.enumerate()}
    assert told[-1].startswith("MLflow is behind the journal")
