"""What one lane has come to, as far as its journal tells: stages, edits, births, the matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from orchestrator.core.events import (
    CheckpointSaved,
    EditApplied,
    EvaluationDone,
    IntervalDone,
    StageStarted,
    WorkFailed,
)
from orchestrator.report import specialisation
from workers.contract import (
    CheckpointRef,
    Edit,
    EditReport,
    Json,
    ModelShape,
    RefreshMask,
    StageSpec,
    StartReport,
)

Answer = StageStarted | IntervalDone | EditApplied | CheckpointSaved
"""Events that answer a numbered command; a rerun after a loss repeats their ``seq``."""


@dataclass(slots=True)
class StageFold:
    """One stage as far as it is known."""

    spec: StageSpec
    data: StartReport
    started: float
    intervals: int = 0
    steps: int = 0
    seconds: float = 0.0
    rss_mb: float = 0.0
    usage: dict[str, list[float]] = field(default_factory=dict)
    """Gate weights of the last interval: layer -> expert."""
    checkpoint: CheckpointRef | None = None
    saved: float | None = None
    adopted_from: str | None = None
    """Run that trained it, where another one did."""


@dataclass(slots=True)
class Row:
    """Scores of one model on every task, and when they were known."""

    scores: list[float]
    at: float
    validation: list[float] = field(default_factory=list)
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    """Task -> its figures."""
    model_figures: dict[str, float] = field(default_factory=dict)
    probes: dict[str, dict[str, list[list[float]]]] = field(default_factory=dict)
    """Task -> layer -> gate weights on the task's probe samples."""


@dataclass(slots=True)
class LaneFold:
    """One lane as far as it is known; ``rows[-1]`` is the untrained model."""

    name: str
    method: str
    seed: int
    config: Json
    attempt: int = 0
    lost: int = 0
    """Highest attempt known to be gone: what its worker still answers does not count."""
    answered: int = 0
    backend: str = ""
    shape: ModelShape | None = None
    """Shape of the model as last told."""
    closed: bool = False
    failed: bool = False
    failures: int = 0
    failure: WorkFailed | None = None
    """The last one."""
    retries: dict[str, int] = field(default_factory=dict)
    """Failures since a stage was last completed or given up, by kind."""
    row_retries: dict[int, int] = field(default_factory=dict)
    """Failed evaluations by row."""
    initial: CheckpointRef | None = None
    stages: dict[int, StageFold] = field(default_factory=dict)
    edits: dict[str, tuple[Edit, EditReport]] = field(default_factory=dict)
    rows: dict[int, Row] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    """Task index -> name, as stages and evaluations tell them."""
    founders: dict[str, int] = field(default_factory=dict)
    """Layer -> experts that were there from the start."""

    @property
    def label(self) -> str:
        """The lane's name without its seed: what seeds are grouped by."""
        return self.name.removesuffix(f"-s{self.seed}") or self.name

    @property
    def width(self) -> int:
        """Number of tasks known so far."""
        widest = max((len(row.scores) for row in self.rows.values()), default=0)
        return max([widest, *(index + 1 for index in self.names)])

    @property
    def saved(self) -> bool:
        """Whether there is a complete model: what a stage that is given up falls back to."""
        stages = (stage.checkpoint for stage in self.stages.values())
        return self.initial is not None or any(ref is not None for ref in stages)

    def skipped(self, index: int) -> bool:
        """Whether the stage was given up: a later one started while it has no checkpoint."""
        stage = self.stages.get(index)
        unfinished = stage is None or stage.checkpoint is None
        return unfinished and any(other > index for other in self.stages)

    def row(self, index: int) -> Row | None:
        """The row after stage ``index``; a stage that was given up left the model as it was."""
        if index not in self.rows and index >= 0 and self.skipped(index):
            return self.row(index - 1)
        return self.rows.get(index)

    def matrix(self) -> list[list[float | None]]:
        """R as far as measured; a row inside it that is still missing holds only None."""
        last = max(self.rows, default=-1)
        rows = [self.row(index) for index in range(last + 1)]
        return [[None] * self.width if row is None else list(row.scores) for row in rows]

    def complete(self) -> list[list[float]]:
        """The leading rows of R without a gap."""
        rows: list[list[float]] = []
        while (row := self.row(len(rows))) is not None:
            rows.append(row.scores)
        return rows

    def untrained(self) -> list[float]:
        return list(self.rows[-1].scores) if -1 in self.rows else []

    def tasks(self) -> list[str]:
        return [self.names.get(index, f"task {index}") for index in range(self.width)]

    @property
    def births(self) -> dict[str, list[int]]:
        """Layer -> stage in which each expert was born; -1 = there from the start."""
        births = {layer: [-1] * experts for layer, experts in self.founders.items()}
        for index, _, report in self._kept():
            for layer, parents in report.parents.items():
                births.setdefault(layer, []).extend([index] * len(parents))
        return births

    def _kept(self) -> Iterator[tuple[int, Edit, EditReport]]:
        """Stage index and edit, in order, without those of stages that were given up."""
        indices = {s.spec.id: index for index, s in self.stages.items() if not self.skipped(index)}
        for edit, report in self.edits.values():
            if edit.stage in indices:
                yield indices[edit.stage], edit, report

    def mask(self, index: int) -> RefreshMask | None:
        """The mask in force at the end of a stage."""
        masks = [
            edit
            for born, edit, _ in self._kept()
            if isinstance(edit, RefreshMask) and born <= index
        ]
        return max(masks, key=lambda edit: edit.version, default=None)

    def routing(self, index: int) -> dict[str, float]:
        """What became of the experts by the end of a stage: see ``report.specialisation``."""
        stage, mask, row = self.stages[index], self.mask(index), self.rows.get(index)
        figures = specialisation.ages(stage.usage, self.births)
        if mask is not None:
            figures |= specialisation.overlaps(mask.masks, mask.usage, mask.domains)
        for task, layers in {} if row is None else row.probes.items():
            then = self._learnt(task, index)
            if then is not None:
                figures |= specialisation.drifts(task, then, layers)
        return figures

    def _learnt(self, task: str, index: int) -> dict[str, list[list[float]]] | None:
        """Probe gates of a task right after it was learnt, where that was before ``index``."""
        for number, name in self.names.items():
            row = self.rows.get(number)
            if name == task and number < index and row is not None:
                return row.probes.get(task)
        return None

    def stage_edits(self, stage: str) -> list[tuple[Edit, EditReport]]:
        return [pair for pair in self.edits.values() if pair[0].stage == stage]


def measured(lane: LaneFold, event: EvaluationDone) -> bool:
    """A row of the matrix; figures name the tasks where they cover all of them."""
    if event.index in lane.rows:
        return False
    scores = event.report.scores
    report = event.report
    lane.rows[event.index] = Row(
        list(scores),
        event.at,
        list(report.validation),
        report.figures,
        report.model_figures,
        report.probes,
    )
    if len(event.report.figures) == len(scores):
        for index, name in enumerate(event.report.figures):
            lane.names.setdefault(index, name)
    return True


def tried(lane: LaneFold, event: WorkFailed) -> int:
    """How often this kind of work has failed now, within what shares a budget; 0 where the failure
    no longer counts: the row is known, or the worker was given up before."""
    if event.kind == "evaluation":
        if event.index in lane.rows:
            return 0
        lane.row_retries[event.index] = lane.row_retries.get(event.index, 0) + 1
        return lane.row_retries[event.index]
    if lane.failed or event.attempt <= lane.lost:
        return 0
    lane.lost = event.attempt
    lane.retries[event.kind] = lane.retries.get(event.kind, 0) + 1
    return lane.retries[event.kind]


def answered(lane: LaneFold, event: Answer) -> bool:
    """The answer to a numbered command counts the first time only."""
    first = event.seq > lane.answered
    lane.answered = max(event.seq, lane.answered)
    match event:
        case EditApplied():
            lane.edits[event.edit.id] = (event.edit, event.report)
            lane.shape = event.report.after
        case _ if not first:
            return False
        case StageStarted():
            spec = event.stage
            lane.stages[spec.index] = StageFold(spec, event.report, event.at)
            lane.names[spec.task.index] = spec.task.name
        case IntervalDone():
            stage = lane.stages[max(lane.stages)]
            stage.intervals, stage.steps = event.report.n, event.report.steps
            stage.usage = event.report.usage
            stage.seconds += event.report.seconds
            stage.rss_mb = max(stage.rss_mb, event.report.rss_mb)
        case CheckpointSaved(index=-1):
            lane.initial, lane.retries = event.checkpoint, {}
        case CheckpointSaved(final=True):
            lane.retries = {}
            lane.stages[event.index].checkpoint = event.checkpoint
            lane.stages[event.index].saved = event.at
            lane.stages[event.index].adopted_from = event.adopted_from
    return first
