"""What a run knows of itself: frozen values that only the controller makes anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.core.actions import Command
from orchestrator.core.plans import FailureKind, LanePlan, RunPlan
from workers.contract import (
    CheckpointRef,
    IntervalReport,
    Json,
    ModelState,
    StageSpec,
    StartReport,
)

LaneStatus = Literal["waiting", "opening", "running", "closing", "done", "failed"]
RunStatus = Literal["running", "interrupted", "failed", "done"]
Row = tuple[float, ...]
"""Validation score on each task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEnd:
    """A lane when a stage was complete: what the next one, or another lane, goes on from."""

    lane: str
    """Lane that trained the stage."""
    stage: StageSpec | None
    """None = the untrained model."""
    checkpoint: CheckpointRef
    model: ModelState
    memory: Mapping[str, Json]
    steps: int
    """Since the lane began."""
    commands: tuple[Command, ...] = ()
    """What made it of the end before; issued again where no checkpoint of it is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneState:
    """Where one lane stands.

    ``queue`` holds the commands decided since the last durable checkpoint, in order of ``seq``.
    ``answered`` is the last seq ever answered, ``executed`` the last one the current worker has
    executed: after a loss ``executed`` falls back and the queue is issued again.
    """

    plan: LanePlan
    status: LaneStatus = "waiting"
    attempt: int = 0
    stage: StageSpec | None = None
    index: int = -1
    """Index of the current stage; -1 while the untrained model is being saved."""
    queue: tuple[Command, ...] = ()
    next_seq: int = 1
    answered: int = 0
    executed: int = 0
    held: bool = False
    """Whether the next stage waits for the scores of the model it starts from."""
    base: CheckpointRef | None = None
    """Last durable checkpoint: what a new worker starts from."""
    saves: tuple[CheckpointRef, ...] = ()
    """Durable checkpoints inside the current stage."""
    behind: tuple[Command, ...] = ()
    """Commands of the current stage that the last of them contain."""
    ends: dict[int, StageEnd] = field(default_factory=dict)
    """Index -> end of each complete stage, ascending, -1 = the untrained model; those that other
    lanes trained for this one are among them."""
    model: ModelState = field(default_factory=ModelState)
    memory: Mapping[str, Json] = field(default_factory=dict)
    """Policy -> what it remembers."""
    edits: int = 0
    """Edits decided in the current stage."""
    start: StartReport | None = None
    """What the worker said at the start of the current stage."""
    reports: tuple[IntervalReport, ...] = ()
    """Of the current stage's intervals."""
    rows: Mapping[int, Row] = field(default_factory=dict)
    """Stage index (-1 = untrained) -> validation score on each task; empty where it was given up
    or the stream has no validation part."""
    steps_before: int = 0
    steps: int = 0
    fingerprints: Mapping[int, str] = field(default_factory=dict)
    """Fingerprint each answered edit of this stage gave, by seq."""
    retries: Mapping[FailureKind, int] = field(default_factory=dict)
    """Failures since a stage was last completed or given up, by kind."""

    @property
    def name(self) -> str:
        """The lane's name in the config."""
        return self.plan.spec.lane

    @property
    def last(self) -> StageEnd | None:
        """What the next stage goes on from, and a skipped one falls back to: the end of the last
        complete stage, or the lane's first model where each task is learnt alone."""
        if not self.ends:
            return None
        return self.ends[-1 if self.plan.course == "alone" else next(reversed(self.ends))]

    @property
    def parent(self) -> CheckpointRef | None:
        """Checkpoint that the next stage goes on from."""
        return None if self.last is None else self.last.checkpoint

    @property
    def active(self) -> bool:
        """Whether the lane holds a worker."""
        return self.status in ("opening", "running", "closing")


class Earlier(Mapping[int, Row]):
    """Rows of stages before one. A view of the lane's, so that a decision copies none of them."""

    __slots__ = ("_before", "_rows")

    def __init__(self, rows: Mapping[int, Row], before: int) -> None:
        self._rows, self._before = rows, before

    def __getitem__(self, index: int) -> Row:
        if index >= self._before:
            raise KeyError(index)
        return self._rows[index]

    def __iter__(self) -> Iterator[int]:
        return (index for index in self._rows if index < self._before)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run: its lanes, the evaluations under way, and the room there is on the cluster."""

    plan: RunPlan = field(default_factory=RunPlan)
    lanes: Mapping[str, LaneState] = field(default_factory=dict)
    evaluations: Mapping[tuple[str, int], CheckpointRef] = field(default_factory=dict)
    """Evaluations asked for and not answered: (lane, stage index) -> checkpoint."""
    evaluation_retries: Mapping[tuple[str, int], int] = field(default_factory=dict)
    cpus: float = 0.0
    gpus: float = 0.0
    status: RunStatus = "running"
