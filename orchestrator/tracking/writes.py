"""What can be written to a tracker, as values that name runs and models by replay-stable keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """A run must exist under its parent."""

    key: str
    parent: str | None
    name: str
    at: int
    """Milliseconds since the epoch, as all times here."""
    tags: Mapping[str, str]
    params: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseRun:
    """A run ended."""

    key: str
    status: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReopenRun:
    """A run that had ended goes on."""

    key: str
    tags: Mapping[str, str] = field(default_factory=dict)
    """What is other than before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One value of a metric."""

    name: str
    value: float
    step: int
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPoints:
    """Values of a run's metrics; of a model's too where one is named."""

    key: str
    points: tuple[Point, ...]
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogDataset:
    """A run read data."""

    key: str
    name: str
    digest: str
    source: str
    context: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogModel:
    """A run made a model out of its parents."""

    key: str
    run: str
    parents: tuple[str, ...]
    """Keys of models of this run that it goes on from; several where it is made of them."""
    name: str
    step: int
    params: Mapping[str, str]
    tags: Mapping[str, str]
    starts: tuple[str, ...] = ()
    """Digests of other runs' models that this one begins with, or is made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountOnce:
    """A lane came to its end: of the lanes with its name, settings and seed, only the last one that
    did is counted in means over seeds."""

    key: str
    variant: str
    """Its name without the seed."""
    settings: str
    seed: str


Write = OpenRun | CloseRun | ReopenRun | CountOnce | LogPoints | LogDataset | LogModel

Setting = CloseRun | ReopenRun | CountOnce
"""What sets something that later ones set anew: the last one counts."""


def place(write: Setting) -> str:
    """What it sets, equal for those that set the same."""
    return f"{'counted' if isinstance(write, CountOnce) else 'status'}:{write.key}"
