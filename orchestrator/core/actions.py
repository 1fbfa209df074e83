"""What to do (imperative): small frozen values in one union.

They do not go into the journal: they follow from the fold of the events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orchestrator.core.events import WorkFailed
from workers.contract import CheckpointRef, LaneSpec, StageSpec, Taken, TaskSpec
from workers.edits import Edit


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLane:
    """Place a worker and build the lane's model, or restore it from a checkpoint."""

    spec: LaneSpec
    attempt: int
    checkpoint: CheckpointRef | None
    taken: Taken | None = None
    """The stage of the checkpoint where another lane trained it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartStage:
    """Point the worker at a stage's task."""

    lane: str
    attempt: int
    seq: int
    stage: StageSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInterval:
    """Train interval ``n`` of the stage."""

    lane: str
    attempt: int
    seq: int
    n: int
    revision: int = 0
    """Edits that the model must have taken in; a worker with others refuses it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyEdit:
    """Change the model on every replica."""

    lane: str
    attempt: int
    seq: int
    edit: Edit


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveCheckpoint:
    """Write a durable checkpoint that contains every command up to ``seq``."""

    lane: str
    attempt: int
    seq: int
    index: int
    final: bool
    name: str
    """Name inside the run's checkpoint folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseLane:
    """The lane is through: its workers are free."""

    lane: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DropLane:
    """Give the lane's worker up at once, whatever it does; nothing answers."""

    lane: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Score a checkpoint on tasks of the stream, beside training."""

    spec: LaneSpec
    index: int
    checkpoint: CheckpointRef
    tasks: tuple[TaskSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFailure:
    """Write down a failure that an answer showed and that is dealt with already."""

    failure: WorkFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishRun:
    """Write the end of the run down."""

    status: Literal["done", "failed"]


Command = StartStage | RunInterval | ApplyEdit | SaveCheckpoint
"""What a lane's worker executes, one at a time, numbered by ``seq``."""

Action = OpenLane | Command | CloseLane | DropLane | Evaluate | RecordFailure | FinishRun
Actions = tuple[Action, ...]
