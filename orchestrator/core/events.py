"""What happened (events, past tense) and what to do about it (actions, imperative).

Both are small frozen values in one union each. Events go into the journal; actions do not: they
follow from the fold of the events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from workers.contract import (
    CheckpointRef,
    Edit,
    EditReport,
    EvaluationReport,
    IntervalReport,
    Json,
    LaneSpec,
    OpenReport,
    StageSpec,
    StartReport,
    TaskSpec,
)

# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRef:
    """Which trial of which search a run is."""

    sweep: str
    trial: str
    attempt: int
    """0, then one more each time the trial goes on from another trial's model."""
    name: str
    """Short text for people: what was chosen."""
    settings: Json
    """What the search chose: dotted key -> value."""
    parent: str | None = None
    """run_id whose stages this attempt took over; None = it began with an untrained model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """First event of every journal: what this run is."""

    type: Literal["RunStarted"] = "RunStarted"
    at: float
    run_id: str
    name: str
    config: Json
    """The whole checked config as plain JSON."""
    config_digest: str
    code_version: str
    cpus: float
    gpus: float
    trial: TrialRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed:
    """A new driver took over: every worker of the old one is gone."""

    type: Literal["RunResumed"] = "RunResumed"
    at: float
    code_version: str
    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneOpened:
    """A worker stands ready with the lane's model built or restored."""

    type: Literal["LaneOpened"] = "LaneOpened"
    at: float
    lane: str
    attempt: int
    report: OpenReport


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted:
    """The worker's model points at the stage's task."""

    type: Literal["StageStarted"] = "StageStarted"
    at: float
    lane: str
    attempt: int
    seq: int
    stage: StageSpec
    report: StartReport


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalDone:
    """The worker finished one interval."""

    type: Literal["IntervalDone"] = "IntervalDone"
    at: float
    lane: str
    attempt: int
    seq: int
    report: IntervalReport


@dataclass(frozen=True, slots=True, kw_only=True)
class EditApplied:
    """Every replica applied the edit and gave the same fingerprint."""

    type: Literal["EditApplied"] = "EditApplied"
    at: float
    lane: str
    attempt: int
    seq: int
    edit: Edit
    report: EditReport


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSaved:
    """A checkpoint is durable: of the untrained model (stage None), in mid-stage, or at an end."""

    type: Literal["CheckpointSaved"] = "CheckpointSaved"
    at: float
    lane: str
    attempt: int
    seq: int
    index: int
    """Index of the stage; -1 for the untrained model."""
    final: bool
    """Whether the stage is complete with it."""
    checkpoint: CheckpointRef
    adopted_from: str | None = None
    """Run that trained it, where this one took it over instead of training it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneClosed:
    """The lane's worker was let go after its last stage."""

    type: Literal["LaneClosed"] = "LaneClosed"
    at: float
    lane: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationDone:
    """A row of the matrix: the model after stage ``index`` (-1 = untrained) on every task."""

    type: Literal["EvaluationDone"] = "EvaluationDone"
    at: float
    lane: str
    index: int
    report: EvaluationReport


FailureKind = Literal["worker_lost", "stage_error", "diverged", "evaluation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkFailed:
    """A command or an evaluation did not come back with an answer."""

    type: Literal["WorkFailed"] = "WorkFailed"
    at: float
    lane: str
    attempt: int
    kind: FailureKind
    index: int
    """Stage index of the failed work (-1 = opening or the untrained model)."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterChanged:
    """Nodes joined or left: this is what the cluster has now."""

    type: Literal["ClusterChanged"] = "ClusterChanged"
    at: float
    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInterrupted:
    """The user or the cluster asked to stop; the state is saved."""

    type: Literal["RunInterrupted"] = "RunInterrupted"
    at: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    """Nothing is left to do."""

    type: Literal["RunFinished"] = "RunFinished"
    at: float
    status: Literal["done", "failed"]


Event = Annotated[
    RunStarted
    | RunResumed
    | LaneOpened
    | StageStarted
    | IntervalDone
    | EditApplied
    | CheckpointSaved
    | LaneClosed
    | EvaluationDone
    | WorkFailed
    | ClusterChanged
    | RunInterrupted
    | RunFinished,
    Field(discriminator="type"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line of the journal: an event and the edits that were decided upon it.

    The edits stand in the record so that a fold never asks a policy again.
    """

    event: Event
    edits: tuple[Edit, ...] = ()


RECORD: TypeAdapter[Record] = TypeAdapter(Record)

# ---------------------------------------------------------------- actions


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLane:
    """Place a worker and build the lane's model, or restore it from a checkpoint."""

    spec: LaneSpec
    attempt: int
    checkpoint: CheckpointRef | None


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
    mask_version: int = 0
    """The gradient masks it must be trained under; a worker with others refuses it."""


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
    """Let the lane's worker go."""

    lane: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DropLane:
    """Give the lane's worker up at once, whatever it does; nothing answers."""

    lane: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Score a checkpoint on every task of the stream, beside training."""

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
