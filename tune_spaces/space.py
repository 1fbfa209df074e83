"""The form of a search space: which keys of a stream file vary, and between what.

Plain values; knows no Ray, so that naming a space costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number between two, both included."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class LogUniform:
    """A positive number between two, evenly spread over orders of magnitude."""

    low: float
    high: float


Domain = Choice | Integer | LogUniform


def holds(domain: Domain, value: Any) -> bool:
    """Whether a value lies in a domain."""
    match domain:
        case Choice(values):
            return value in values
        case Integer(low, high):
            return isinstance(value, int) and low <= value <= high
        case LogUniform(low, high):
            return isinstance(value, int | float) and low <= value <= high


def ends(domain: Domain) -> tuple[Any, ...]:
    """All values of a choice, the first and the last of numbers."""
    return domain.values if isinstance(domain, Choice) else (domain.low, domain.high)


class Space:
    """Base: a stream file, the lane of it that is a trial, and what varies."""

    base: ClassVar[str]
    """Stream file used where none is given, relative to the repository."""
    lane: ClassVar[str | None] = None
    """Lane of ``base`` that is searched over; None = its only one."""
    fixed: ClassVar[Mapping[str, Any]] = {}
    """Settings laid over the file for every trial: what trials need to have in common."""
    parameters: ClassVar[Mapping[str, Domain]]
    """Dotted key of the stream file -> what it is chosen from."""
    objective: ClassVar[str] = "acc.final"
    """What is maximised where nothing else is asked for."""
