"""What happened (events, past tense) and what to do about it (actions, imperative).

Both are small frozen values in one union each. Events go into the journal; actions do not: they
follow from the fold of the events.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer, PlainValidator, TypeAdapter

from orchestrator.evaluations import EVALUATIONS, Evaluation
from workers.contract import (
    CheckpointRef,
    EditReport,
    EvaluationReport,
    IntervalReport,
    Json,
    LaneSpec,
    OpenReport,
    StageSpec,
    StartReport,
    Taken,
    TaskSpec,
)
from workers.edits import EDITS, Edit
from workers.parsing import checked
from workers.tables import Problem, lookup

FORMAT = 4
"""Format of the journals that this version writes and reads."""

# ---------------------------------------------------------------- edits of any kind


def read_edit(value: Any) -> Edit:
    """An edit of any kind from its plain form; ``kind`` names a line of EDITS or module:Class.

    Raises ValueError where the kind is unknown or the fields are not its own.
    """
    if isinstance(value, Edit):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"an edit must be a table, got {value!r}")
    found: Any = lookup(EDITS, value.get("kind"), "kind")
    if isinstance(found, Problem):
        raise ValueError(str(found))
    if not issubclass(found, Edit):
        raise ValueError(f"kind: {value['kind']!r} is no Edit; subclass workers.edits.Edit")
    edit: Edit = _adapter(found).validate_python(value)
    return edit


@lru_cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


AnyEdit = Annotated[Edit, PlainValidator(read_edit), PlainSerializer(asdict)]
"""An edit in an event or a record: read by its kind, written with all its fields."""

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
class Stem:
    """A lane's first stages that other lanes have too, with the same bits: trained once."""

    lanes: tuple[str, ...]
    """Lanes that have them too, in the order in which they are asked for them: the first one that
    does not fail or give up before trains them."""
    stages: int
    stage: str
    """Id of the last one."""


Course = Literal["stream", "alone", "none"]
"""What a lane's stages go on from: each from the one before, each from the lane's first model, or
there are none and that model is scored as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanePlan:
    """All that deciding about a lane needs to know of it, from its first stage to its last."""

    spec: LaneSpec
    tasks: tuple[TaskSpec, ...]
    """What each stage learns."""
    scored: tuple[TaskSpec, ...] = ()
    """What models are scored on, the columns of R; none = the tasks themselves."""
    learnt_after: tuple[int, ...] = ()
    """Stage at whose end each scored task was learnt; none = each task's own."""
    intervals: int
    """Of each stage."""
    cpus: float
    """What all workers of the lane reserve together."""
    gpus: float
    experts: int = 1
    """Experts of the largest layer at the start."""
    waits_for_scores: bool = False
    """Whether a stage starts only once the model before it was scored."""
    depends: tuple[str, ...]
    """Digest for each stage of what it is trained by, beside task, seed and parent."""
    scored_on: str
    """Digest of what a model is scored on: equal in lanes that score a model alike."""
    stem: Stem | None = None
    """First stages that other lanes train; None = it trains all of its own."""
    course: Course = "stream"
    evaluation: Json = field(default_factory=lambda: {"kind": "all"})
    """What the lane's models are scored on, as an entry of EVALUATIONS reads it."""

    @property
    def stages(self) -> int:
        """Stages that are trained; every model is scored on all tasks."""
        return 0 if self.course == "none" else len(self.tasks)

    @property
    def columns(self) -> tuple[TaskSpec, ...]:
        """What models are scored on."""
        return self.scored or self.tasks

    @property
    def ends(self) -> tuple[int, ...]:
        """Stage at whose end each of the columns was learnt."""
        return self.learnt_after or tuple(range(len(self.tasks)))

    def scored_after(self, index: int) -> tuple[int, ...]:
        """Columns that the model after stage ``index`` (-1 = the first one) is scored on; none =
        it is not scored."""
        return _evaluation(json.dumps(self.evaluation)).columns(index, self.stages, self.ends)


@lru_cache
def _evaluation(told: str) -> Evaluation:
    kind, config = checked(EVALUATIONS, json.loads(told))
    made: Evaluation = kind(config)
    return made


FailureKind = Literal[
    "worker_lost", "stage_error", "diverged", "evaluation", "model_lost", "checkpoint_lost"
]
"""``model_lost``: the checkpoint to score is gone or damaged; its budget is that of ``evaluation``.
``checkpoint_lost``: the one to open is; it needs no budget, as each time there is one less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How often a kind of failure is retried per stage, and what happens then."""

    retries: int
    then: Literal["skip_stage", "fail_lane", "abort_run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """Lanes, failure budgets and checkpoint interval of a run, journalled in its first record.

    A run's state is a function of this plan and the events after it.
    """

    lanes: tuple[LanePlan, ...] = ()
    failures: Mapping[FailureKind, Budget] = field(default_factory=dict)
    checkpoint_every: int = 0
    """Intervals between checkpoints inside a stage; 0 = at stage ends only."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line of the journal: an event and what policies decided upon it.

    Both stand in the record so that a fold never asks a policy again.
    """

    event: Event
    edits: tuple[AnyEdit, ...] = ()
    memory: dict[str, Json] = field(default_factory=dict)
    """Policy -> what it remembers from now on, where that changed."""


RECORD: TypeAdapter[Record] = TypeAdapter(Record)


def line(record: Record, after: str = "") -> bytes:
    """The record as one line of a journal, its newline included.

    ``after``: the mark of the line before it, empty in the first one. Numbers that are none (a loss
    that diverged) stay what they are. Raises TypeError where a value in it is none that JSON can
    hold.
    """
    told = {"after": after, **RECORD.dump_python(record)}
    return json.dumps(told, separators=(",", ":")).encode() + b"\n"


def mark(text: bytes) -> str:
    """What the next line of the journal says of this one (its newline included)."""
    return hashlib.sha256(text).hexdigest()[:16]


def follows(text: bytes, after: str) -> bool:
    """Whether a line of the journal says that it comes after the line with this mark."""
    return text.startswith(f'{{"after":"{after}"'.encode())


def chained(records: Iterable[Record], after: str = "") -> tuple[bytes, str]:
    """The records as lines of a journal that follow the line marked ``after``; the last's mark."""
    lines = []
    for record in records:
        lines.append(line(record, after))
        after = mark(lines[-1])
    return b"".join(lines), after


def as_journalled(edits: tuple[Edit, ...], memory: Json) -> tuple[tuple[Edit, ...], Json]:
    """What policies decided as a fold of the journal will give it back, so that a driver which
    takes over sees the same. Raises TypeError or ValueError where a journal cannot hold it."""
    plain = json.loads(json.dumps([list(map(asdict, edits)), memory]))
    return tuple(map(read_edit, plain[0])), plain[1]


# ---------------------------------------------------------------- actions


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
