"""Feeds hostile input to one target and sorts what comes of it: taken, refused in words, or found.

A finding is anything else than an error of ours: a bare exception, a hang, or a file left behind.
"""

from __future__ import annotations

import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from workers.contract import RunError

WORK_S, WAIT_S = 10.0, 120.0
"""Seconds of processor time, and of any time, after which an input counts as one that hangs."""
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Target:
    """Something that reads what others wrote."""

    inputs: Callable[[], st.SearchStrategy[Any]]
    """What it may be handed."""
    feed: Callable[[Path, Any], None]
    """Hand one over, in an empty folder; raises an error of ours where it refuses."""
    good: Callable[[], Any]
    """One that it must take: else nothing would be tried behind its first check."""
    slow: bool = False
    """Whether one takes so long that a tenth as many have to do."""


class Hang(BaseException):
    """The input kept its reader busy for longer than WORK_S, or waiting for longer than WAIT_S."""


@dataclass(slots=True)
class Outcome:
    """What came of one target's inputs."""

    executions: int = 0
    refused: int = 0
    findings: dict[str, Any] = field(default_factory=dict)
    """Where it came from -> the shortest input that did it."""


def judged(target: Target, value: Any) -> tuple[bool, str | None]:
    """(whether it was refused in words, what was found) of one input."""
    with TemporaryDirectory() as folder, warnings.catch_warnings(), _in_time():
        warnings.simplefilter("ignore")
        try:
            target.feed(Path(folder), value)
        except RunError as error:
            return True, None if str(error).strip() else "an error without a word"
        except (Exception, Hang) as error:
            return False, _place(error)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return False, _place(error)
    return False, None


def warm(target: Target) -> None:
    """Import what reading needs, which takes longer than any input may."""
    with TemporaryDirectory() as folder:
        target.feed(Path(folder), target.good())


def attack(target: Target, count: int, number: int) -> Outcome:
    """Hand over ``count`` inputs drawn from seed ``number``; keeps on where something is found."""
    outcome = Outcome()
    quiet = list(HealthCheck)
    warm(target)

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=quiet,
    )
    @given(target.inputs())
    def one(value: Any) -> None:
        outcome.executions += 1
        refused, found = judged(target, value)
        outcome.refused += refused
        if found is not None:
            known = outcome.findings.get(found)
            if known is None or len(repr(value)) < len(repr(known)):
                outcome.findings[found] = value

    one()
    return outcome


def _place(error: BaseException) -> str:
    """The error, and the last of our own lines that it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if str(ROOT) in f.filename and "tests/fuzz" not in f.filename]
    last = own[-1] if own else frames[-1]
    file = Path(last.filename)
    where = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file.name
    return f"{type(error).__name__} at {where}:{last.lineno} ({last.name}): {str(error)[:120]!r}"


@contextmanager
def _in_time() -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        raise Hang(signal.Signals(number).name)

    timers = {
        signal.SIGPROF: (signal.ITIMER_PROF, WORK_S),
        signal.SIGALRM: (signal.ITIMER_REAL, WAIT_S),
    }
    before = {number: signal.signal(number, late) for number in timers}
    for which, seconds in timers.values():
        signal.setitimer(which, seconds)
    try:
        yield
    finally:
        for which, _ in timers.values():
            signal.setitimer(which, 0.0)
        for number, handler in before.items():
            signal.signal(number, handler)


def nothing_half_written(folder: Path, before: Mapping[str, bytes]) -> None:
    """Raises AssertionError where a refused write left something behind, or changed a file."""
    now = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert now == before, f"left behind: {sorted(now.keys() ^ before.keys()) or 'other contents'}"
