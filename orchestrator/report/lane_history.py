"""What people look at of one lane: its stages, edits, births and the matrix."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.core.events import (
    CheckpointSaved,
    EditApplied,
    EvaluationDone,
    IntervalDone,
    LaneOpened,
    StageStarted,
    WorkFailed,
)
from orchestrator.core.plans import LanePlan
from orchestrator.report import specialisation, trainability
from workers.contract import (
    CheckpointRef,
    EditReport,
    IntervalReport,
    Json,
    ModelShape,
    StageSpec,
    StartReport,
)
from workers.edits import Edit, RefreshMask

Matrix = list[list[float | None]]


@dataclass(slots=True)
class StageHistory:
    """One stage as far as it is known."""

    spec: StageSpec
    data: StartReport
    started: float
    intervals: int = 0
    steps: int = 0
    seconds: float = 0.0
    rss_mb: float = 0.0
    gate_weights: dict[str, list[float]] = field(default_factory=dict)
    """Of the last interval: layer -> expert."""
    training: dict[str, float] = field(default_factory=dict)
    """Of the last interval: losses by name, score, learning rate."""
    checkpoint: CheckpointRef | None = None
    saved: float | None = None
    curve: tuple[float, ...] = ()
    """Score in training after each interval; not a number where none was measured."""
    adopted_from: str | None = None
    """Run that trained it, where another one did."""
    trained_by: str | None = None
    """Lane of this run that trained it, where another one did."""
    id: str = field(init=False)
    """Of the spec, hashed once."""

    def __post_init__(self) -> None:
        self.id = self.spec.id

    def trained(self, report: IntervalReport) -> None:
        """One more interval."""
        self.intervals, self.steps = report.n, report.steps
        self.curve = (*self.curve, math.nan if report.level is None else report.level)
        self.gate_weights, self.training = report.gate_weights, report.metrics
        self.seconds += report.seconds
        self.rss_mb = max(self.rss_mb, report.rss_mb)


@dataclass(slots=True)
class Row:
    """Scores of one model on every task, and when they were known."""

    scores: list[float | None]
    """On the test parts; None = not scored on this task."""
    at: float
    validation: list[float | None] = field(default_factory=list)
    """The same on the validation parts; empty where the stream has none."""
    gate_weights: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    """Task -> further figures."""
    model_figures: dict[str, float] = field(default_factory=dict)
    probes: dict[str, dict[str, list[list[float]]]] = field(default_factory=dict)
    """Task -> layer -> gate weights on the task's probe samples."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What the edits of stages that count came to, looked up once for all stages."""

    births: Mapping[str, list[int]]
    """Layer -> stage in which each expert was born; -1 = there from the start."""
    masks: tuple[tuple[int, RefreshMask], ...]
    """(stage, the last mask by then), stages ascending."""
    learnt: Mapping[str, int]
    """Task -> stage by whose end it was learnt."""

    def mask(self, index: int) -> RefreshMask | None:
        """The mask in force at the end of a stage."""
        place = bisect_right(self.masks, index, key=lambda known: known[0])
        return self.masks[place - 1][1] if place else None

    def born_by(self, index: int) -> dict[str, list[int]]:
        """``births`` as they stood at the end of a stage."""
        return {layer: born[: bisect_right(born, index)] for layer, born in self.births.items()}


@dataclass(slots=True)
class LaneHistory:
    """What a lane's events reported so far: stages, edits, shapes and rows of R.

    ``rows``: stage index -> evaluation, -1 = the untrained model. Status, retries and which stages
    count are not kept here: the controller's state (``LaneState``) has them.
    """

    plan: LanePlan
    config: Json
    opened: int = 0
    """Attempts for which a worker stood ready."""
    backend: str = ""
    shape: ModelShape | None = None
    """Shape of the model as last told."""
    failures: int = 0
    failure: WorkFailed | None = None
    """The last one."""
    initial: CheckpointRef | None = None
    stages: dict[int, StageHistory] = field(default_factory=dict)
    edits: dict[str, tuple[Edit, EditReport]] = field(default_factory=dict)
    by_stage: dict[str, dict[str, tuple[Edit, EditReport]]] = field(default_factory=dict)
    """The same for each stage's id."""
    rows: dict[int, Row] = field(default_factory=dict)
    founders: dict[str, int] = field(default_factory=dict)
    """Layer -> experts that were there from the start."""
    tasks: list[str] = field(init=False)
    """Names of the tasks that models are scored on, in order."""
    _drifts: dict[tuple[str, int], tuple[Row, Row, dict[str, float]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """(task, stage) -> the two rows, and what ``_drift`` came to with them: a report of a run asks
    for all of them anew whenever a stage ends."""

    def __post_init__(self) -> None:
        self.tasks = [task.name for task in self.plan.columns]

    # ------------------------------------------------------------ what came in

    def open(self, event: LaneOpened) -> None:
        """A worker stands ready."""
        self.opened = event.attempt
        self.backend, self.shape = event.report.backend, event.report.shape
        for name, layer in event.report.shape.layers.items():
            self.founders.setdefault(name, layer.born)

    def answer(self, event: StageStarted | IntervalDone | EditApplied | CheckpointSaved) -> None:
        """Take in the first answer to a numbered command; answers of reruns are left out."""
        match event:
            case StageStarted(stage=spec):
                self.stages[spec.index] = StageHistory(spec, event.report, event.at)
            case IntervalDone():
                self.stages[max(self.stages)].trained(event.report)
            case EditApplied():
                self.apply(event)
            case CheckpointSaved(index=-1):
                self.initial = event.checkpoint
            case CheckpointSaved(final=True):
                stage = self.stages[event.index]
                stage.checkpoint, stage.saved = event.checkpoint, event.at
                stage.adopted_from = event.adopted_from

    def apply(self, event: EditApplied) -> None:
        """An edit was applied; one that is applied again to a restored model is the same edit."""
        self._note(event.edit, event.report)
        self.shape = event.report.after

    def measure(self, event: EvaluationDone) -> None:
        """A row of the matrix."""
        report = event.report
        self.rows[event.index] = Row(
            scores=self._spread(event.index, report.scores),
            at=event.at,
            validation=self._spread(event.index, report.validation) if report.validation else [],
            gate_weights=report.gate_weights,
            figures=report.figures,
            model_figures=report.model_figures,
            probes=report.probes,
        )

    def _spread(self, index: int, scores: Sequence[float]) -> list[float | None]:
        """Scores on the tasks that this model was scored on, each in its task's column."""
        row: list[float | None] = [None] * len(self.plan.columns)
        for place, score in zip(self.plan.scored_after(index), scores, strict=True):
            row[place] = score
        return row

    def take_over(self, other: LaneHistory, index: int) -> None:
        """Stage ``index`` (-1 = the untrained model) is one that the other lane trained."""
        self.founders = dict(other.founders)
        if index < 0:
            self.initial = other.initial
            return
        stage = other.stages[index]
        self.stages[index] = replace(stage, trained_by=other.name)
        for edit, told in other.stage_edits(stage.id):
            self._note(edit, told)

    def _note(self, edit: Edit, report: EditReport) -> None:
        self.edits[edit.id] = (edit, report)
        self.by_stage.setdefault(edit.stage, {})[edit.id] = (edit, report)

    def fail(self, failure: WorkFailed) -> None:
        """Work did not come back, and that counts."""
        self.failures, self.failure = self.failures + 1, failure

    # ------------------------------------------------------------ what it comes to

    @property
    def name(self) -> str:
        return self.plan.spec.lane

    @property
    def method(self) -> str:
        return self.plan.spec.method

    @property
    def seed(self) -> int:
        return self.plan.spec.seed

    @property
    def start(self) -> CheckpointRef | None:
        """Model of another run that it began with; None = an untrained one."""
        start = self.plan.spec.start
        return None if start is None else start.checkpoint

    @property
    def merged(self) -> list[Json]:
        """Models that its first one was made of: where each comes from, and its stage's id."""
        merged = self.plan.spec.merged
        parents = () if merged is None else merged.parents
        return [{"from": parent.name, "stage": parent.stage} for parent in parents]

    @property
    def label(self) -> str:
        """The lane's name without its seed: what seeds are grouped by."""
        return self.name.removesuffix(f"-s{self.seed}") or self.name

    @property
    def baselines(self) -> Mapping[str, str]:
        """Baseline -> the lane that is this one's."""
        found: Mapping[str, str] = self.config.get("baselines", {})
        return found

    def skipped(self, index: int) -> bool:
        """Whether the stage was given up: a later one started while it has no checkpoint."""
        stage = self.stages.get(index)
        unfinished = stage is None or stage.checkpoint is None
        return unfinished and max(self.stages, default=-1) > index

    def row(self, index: int) -> Row | None:
        """The row after stage ``index``; a stage that was given up left the model as it was."""
        if index not in self.rows and index >= 0 and self.skipped(index):
            return self.row(-1 if self.plan.course == "alone" else index - 1)
        return self.rows.get(index)

    def matrix(self) -> Matrix:
        """R as far as measured; a row inside it that is still missing holds only None."""
        rows = [self.row(index) for index in range(max(self.rows, default=-1) + 1)]
        width = len(self.plan.columns)
        return [[None] * width if row is None else list(row.scores) for row in rows]

    def complete(self, after: int = 0) -> list[list[float]]:
        """R where each row is that of the stage by whose end its task was learnt: its leading rows,
        up to the last one that is known, as long as none is missing that is still to come. Not a
        number where a model was not scored on a task. ``after``: so many of them are left out."""
        return [_numbers(row.scores) for row in self._leading(after)]

    def validation_matrix(self) -> list[list[float]]:
        """The same on the validation parts; its rows are empty where the stream has none."""
        return [_numbers(row.validation) for row in self._leading()]

    def _leading(self, after: int = 0) -> list[Row]:
        rows: list[Row] = []
        known = 0
        for index in self.plan.ends[after:]:
            row = self.row(index)
            if row is None and self.plan.scored_after(index):
                break
            rows.append(row or Row(scores=[None] * len(self.plan.columns), at=math.nan))
            known = len(rows) if row is not None else known
        return rows[:known]

    def trainability(self, stages: int) -> dict[str, float]:
        """How well the first so many stages were learnt: see ``report.trainability``."""
        curves: list[trainability.Curve] = []
        for index in range(stages):
            stage = self.stages.get(index)
            levels = () if stage is None else stage.curve
            steps = 0 if stage is None else stage.steps
            curves.append([(steps * n // len(levels), x) for n, x in enumerate(levels, start=1)])
        return trainability.summarise(curves)

    def untrained(self) -> list[float]:
        return _numbers(self.rows[-1].scores) if -1 in self.rows else []

    def untrained_validation(self) -> list[float]:
        return _numbers(self.rows[-1].validation) if -1 in self.rows else []

    def kept(self) -> Kept:
        """What ``routing`` looks up: in time that is linear in stages and edits."""
        births = {layer: [-1] * experts for layer, experts in self.founders.items()}
        masks: dict[int, RefreshMask] = {}
        for index, edit, report in self.kept_edits():
            for layer, parents in report.parents.items():
                births.setdefault(layer, []).extend([index] * len(parents))
            if isinstance(edit, RefreshMask):
                masks[index] = edit
        learnt = dict(zip(self.tasks, self.plan.ends, strict=True))
        return Kept(births, tuple(sorted(masks.items(), key=lambda known: known[0])), learnt)

    def kept_edits(self) -> Iterator[tuple[int, Edit, EditReport]]:
        """Stage index and edit, in order, without those of stages that were given up."""
        last = max(self.stages, default=-1)
        kept = (i for i, stage in self.stages.items() if i == last or stage.checkpoint is not None)
        indices = {self.stages[index].id: index for index in kept}
        for edit, report in self.edits.values():
            if edit.stage in indices:
                yield indices[edit.stage], edit, report

    @property
    def births(self) -> Mapping[str, list[int]]:
        """Layer -> stage in which each expert was born; -1 = there from the start."""
        return self.kept().births

    def mask(self, index: int) -> RefreshMask | None:
        """The mask in force at the end of a stage."""
        return self.kept().mask(index)

    def routing(self, index: int, kept: Kept | None = None) -> dict[str, float]:
        """What became of the experts by the end of a stage: see ``report.specialisation``.

        ``kept``: of this lane as it stands, where several stages are asked for.
        """
        kept = kept or self.kept()
        stage, mask = self.stages[index], kept.mask(index)
        figures = specialisation.ages(stage.gate_weights, kept.born_by(index))
        if mask is not None:
            figures |= specialisation.overlaps(mask.masks, mask.usage, mask.domains)
        row = self.rows.get(index)
        for task in () if row is None else row.probes:
            figures |= self._drift(task, kept.learnt[task], index)
        return figures

    def drifted_since(self, index: int) -> dict[int, dict[str, float]]:
        """Later stage -> what had become by its end of the tasks learnt in stage ``index``: of
        ``routing``, what needs the row of both. Empty where no later row is known yet."""
        later = [known for known in self.rows if known > index]
        ends = zip(self.tasks, self.plan.ends, strict=True) if later else ()
        tasks = [task for task, end in ends if end == index]
        return {
            known: {
                name: x for task in tasks for name, x in self._drift(task, index, known).items()
            }
            for known in sorted(later)
        }

    def _drift(self, task: str, learnt: int, index: int) -> dict[str, float]:
        """What became of a task's routing from the stage that learnt it to a later one."""
        then, now = self.rows.get(learnt), self.rows[index]
        if learnt >= index or then is None or task not in then.probes or task not in now.probes:
            return {}
        known = self._drifts.get((task, index))
        if known is None or known[0] is not then or known[1] is not now:
            figures = specialisation.drifts(task, then.probes[task], now.probes[task])
            known = self._drifts[task, index] = (then, now, figures)
        return known[2]

    def stage_edits(self, stage: str) -> list[tuple[Edit, EditReport]]:
        """Edits of one stage, in order."""
        return list(self.by_stage.get(stage, {}).values())


def _numbers(row: Sequence[float | None]) -> list[float]:
    """A row to reckon with."""
    return [math.nan if score is None else score for score in row]
