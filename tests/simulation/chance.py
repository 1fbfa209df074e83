"""What decides a history: one seeded source of choices, and the faults it may spend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")

FAULTS: dict[str, str] = {
    "driver_killed": "the driver's process ends between two steps",
    "signal": "SIGINT or SIGTERM, which the driver notes",
    "disk_full": "a write takes some bytes and fails",
    "sync_fails": "fsync answers with an error",
    "worker_dies_before": "a worker dies with the command undone",
    "worker_dies_after": "a worker dies with the command done and not answered",
    "worker_hangs": "a worker answers minutes later",
    "late": "nothing answers for a while",
    "answered_twice": "an answer is told twice",
    "code_fails": "the stage's own code raises",
    "node_lost": "a node goes with all its workers, and comes back",
    "node_joins": "a node more",
    "evaluator_fails": "an evaluation raises",
    "replica_differs": "one of two workers answers otherwise",
    "outlives": "a worker of a driver that is gone executes one command more",
    "checkpoint_lost": "what would be opened or scored is gone, between two drivers",
    "clock_jumps": "the wall clock is set, either way",
    "store_away": "the tracking server refuses for a while",
    "store_times_out": "the tracking server does what was asked, and its answer is lost",
    "store_late": "the tracking server does what was asked long after it was given up",
    "store_emptied": "the tracking server loses all it held",
    "tracker_stopped": "a projection is stopped between two writes",
}
"""Kinds of fault -> what happens."""


class Chance:
    """Answers questions at random; counts, and bounds, the faults."""

    def __init__(self, random: Random, without: Sequence[str] = ()) -> None:
        """``without``: kinds of fault that do not happen."""
        self.random = random
        self.left = random.randrange(8)
        self.rate = random.choice((0.01, 0.05, 0.15))
        drawn = random.sample(list(FAULTS), random.randrange(1, 6))
        self.kinds = frozenset(drawn) - frozenset(without)
        self.faults: Counter[str] = Counter()

    def may(self, kind: str) -> bool:
        """Whether this fault can still happen."""
        return self.left > 0 and kind in self.kinds

    def fault(self, kind: str) -> bool:
        """Whether this fault happens here; each history has some kinds and a bounded number."""
        return self.may(kind) and self.random.random() <= self.rate and self._spent(kind)

    def seldom_asked(self, kind: str) -> bool:
        """As ``fault``, where a history asks a few times only: in every other case then."""
        return self.may(kind) and self.often(0.5) and self._spent(kind)

    def _spent(self, kind: str) -> bool:
        self.left -= 1
        self.faults[kind] += 1
        return True

    def often(self, share: float) -> bool:
        """True in about this share of the times: a choice that is no fault."""
        return self.random.random() < share

    def below(self, n: int) -> int:
        """0 to n - 1."""
        return self.random.randrange(n)

    def of(self, choices: Sequence[T]) -> T:
        return choices[self.random.randrange(len(choices))]

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.random.random()


class DriverKilled(BaseException):
    """The driver's process is gone: nothing of it runs on."""


class Violation(AssertionError):  # noqa: N818  (of a law)
    """Something that must always hold did not."""


def must(holds: object, text: str, *about: Any) -> None:
    """Raise Violation with the text unless it holds."""
    if not holds:
        raise Violation(" ".join([text, *map(str, about)]))
