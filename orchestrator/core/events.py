"""What happened (past tense): small frozen values in one union, which go into the journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.core.edits import AnyEdit
from orchestrator.core.plans import FailureKind, RunPlan, TrialRef
from workers.contract import (
    CheckpointRef,
    EditReport,
    EvaluationReport,
    IntervalReport,
    Json,
    OpenReport,
    StageSpec,
    StartReport,
)

FORMAT = 4
"""Format of the journals that this version writes and reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """First event of every journal: what this run is and was started with.

    Written before anything acts, so that no kill forgets it.
    """

    type: Literal["RunStarted"] = "RunStarted"
    format: int = FORMAT
    at: float
    run_id: str
    name: str
    config: Json
    """The whole checked config as plain JSON."""
    config_digest: str
    plan: RunPlan
    """What the config comes to."""
    code_version: str
    modules: Mapping[str, str] = field(default_factory=dict)
    """The user's own modules that the config names -> first 16 hex digits of their SHA-256."""
    tracking_uri: str | None = None
    """MLflow store that was named, without a password; None = the file beside the run folder."""
    trial: TrialRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed:
    """A new driver took over: every worker of the old one is gone."""

    type: Literal["RunResumed"] = "RunResumed"
    at: float
    code_version: str
    cpus: float
    gpus: float
    modules: Mapping[str, str] = field(default_factory=dict)
    """As in RunStarted, of the code from now on."""
    tracking_uri: str | None = None
    """MLflow store from now on; as in RunStarted."""
    settings: Mapping[str, Json] = field(default_factory=dict)
    """What lanes that may change it are trained by from now on: ``section.key`` -> value."""


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
    edit: AnyEdit
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
    """A row of the matrix: the model after stage ``index`` (-1 = untrained) on the tasks that the
    plan has it scored on."""

    type: Literal["EvaluationDone"] = "EvaluationDone"
    at: float
    lane: str
    index: int
    report: EvaluationReport


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkFailed:
    """A command or an evaluation did not come back with an answer."""

    type: Literal["WorkFailed"] = "WorkFailed"
    at: float
    lane: str
    attempt: int
    kind: FailureKind
    index: int
    """Stage whose model was to be scored, -1 = the untrained one; at which stage a lane's own work
    failed its state tells."""
    message: str

    @property
    def scoring(self) -> bool:
        """Whether an evaluation failed, and no work of the lane's."""
        return self.kind in ("evaluation", "model_lost")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterChanged:
    """The cluster was joined, or nodes came or went: this is what it has now."""

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


RunEvent = RunStarted | RunResumed | ClusterChanged | RunInterrupted | RunFinished

LaneEvent = (
    LaneOpened
    | StageStarted
    | IntervalDone
    | EditApplied
    | CheckpointSaved
    | LaneClosed
    | EvaluationDone
    | WorkFailed
)
"""What happened to one lane; each names it."""

Event = Annotated[RunEvent | LaneEvent, Field(discriminator="type")]
