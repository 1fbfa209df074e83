"""What a run has come to: a fold of its journal into lanes, stages, edits and the matrix.

Pure and incremental: the command line, the live display and the tracker all add records to it.
Knows no files, no MLflow and no policies.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import zip_longest

from orchestrator import routing
from orchestrator.events import (
    CheckpointSaved,
    ClusterChanged,
    EditApplied,
    EvaluationDone,
    Event,
    IntervalDone,
    LaneClosed,
    LaneOpened,
    Record,
    RunFinished,
    RunInterrupted,
    RunResumed,
    RunStarted,
    StageStarted,
    WorkFailed,
)
from orchestrator.metrics import summarise
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
    counts: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """Layer -> domain -> tokens that chose each expert, over the stage."""
    checkpoint: CheckpointRef | None = None
    saved: float | None = None
    adopted_from: str | None = None
    """Run that trained it, where another one did."""


@dataclass(slots=True)
class Row:
    """Scores of one model on every task, and when they were known."""

    scores: list[float]
    at: float
    usage: dict[str, dict[str, list[float]]]
    details: dict[str, dict[str, float]] = field(default_factory=dict)
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
    retries: dict[tuple[str, int], int] = field(default_factory=dict)
    initial: CheckpointRef | None = None
    stages: dict[int, StageFold] = field(default_factory=dict)
    edits: dict[str, tuple[Edit, EditReport]] = field(default_factory=dict)
    rows: dict[int, Row] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    """Task index -> name, as stages and evaluations tell them."""
    births: dict[str, list[int]] = field(default_factory=dict)
    """Layer -> stage in which each expert was born; -1 = there from the start."""

    @property
    def label(self) -> str:
        """The lane's name without its seed: what seeds are grouped by."""
        return self.name.removesuffix(f"-s{self.seed}") or self.name

    @property
    def width(self) -> int:
        """Number of tasks known so far."""
        widest = max((len(row.scores) for row in self.rows.values()), default=0)
        return max([widest, *(index + 1 for index in self.names)])

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

    def mask(self, index: int) -> RefreshMask | None:
        """The mask in force at the end of a stage."""
        stages = [stage.spec.id for i, stage in sorted(self.stages.items()) if i <= index]
        masks = [
            edit
            for edit, _ in self.edits.values()
            if isinstance(edit, RefreshMask) and edit.stage in stages
        ]
        return max(masks, key=lambda edit: edit.version, default=None)

    def routing(self, index: int) -> dict[str, float]:
        """How specialised the experts are after a stage: ``<layer>/<measure>`` and drift."""
        stage, mask, row = self.stages[index], self.mask(index), self.rows.get(index)
        figures = routing.of_counts(stage.counts)
        if mask is not None:
            figures |= routing.of_mask(mask.masks, mask.usage, mask.domains)
        if len({birth for births in self.births.values() for birth in births}) > 1:
            for layer, usage in stage.usage.items():
                shares = routing.age_share(usage, self.births.get(layer, ()))
                figures |= {f"{layer}/age/{born:02d}": x for born, x in sorted(shares.items())}
        for task, layers in {} if row is None else row.probes.items():
            then = self._learnt(task, index)
            if then is None:
                continue
            # A layer with a single expert had no gates to keep.
            moves = [routing.drift(then[x], now) for x, now in layers.items() if x in then]
            for name, values in zip(
                ("drift", "flips", "newcomers"), zip(*moves, strict=True), strict=False
            ):
                figures[f"{name}/{task}"] = sum(values) / len(values)
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


class RunFold:
    """A run as far as its journal tells. ``add`` is idempotent for what a recovery repeats."""

    def __init__(self) -> None:
        self.started: RunStarted | None = None
        self.status = "running"
        self.ended: float | None = None
        self.events = 0
        self.lanes: dict[str, LaneFold] = {}

    def add(self, record: Record) -> bool:
        """Take one record in. False where it only repeats what was known, or no longer counts."""
        self.events += 1
        event = record.event
        match event:
            case RunStarted():
                return self._start(event)
            case RunResumed():
                return self._resume()
            case ClusterChanged():
                return False  # what is learnt does not depend on where
            case RunInterrupted():
                self.status, self.ended = "interrupted", event.at
                return True
            case RunFinished():
                self.status, self.ended = event.status, event.at
                return True
        return self._add_to_lane(self.lanes[event.lane], event)

    def lane_status(self, lane: LaneFold) -> str:
        """``waiting``, ``running``, ``done``, ``failed`` or ``interrupted``."""
        if lane.closed or lane.failed:
            return "failed" if lane.failed else "done"
        if self.status != "running":
            return "interrupted"
        return "running" if lane.attempt > lane.lost else "waiting"

    def stage_status(self, lane: LaneFold, index: int) -> str:
        """``done`` once its checkpoint is durable, ``skipped`` if given up, else as its lane."""
        if lane.stages[index].checkpoint is not None:
            return "done"
        return "skipped" if lane.skipped(index) else self.lane_status(lane)

    def json(self, tracked_offset: int = 0) -> Json:
        """The report as plain JSON: what ``growstage show --json`` prints."""
        assert self.started is not None, "a journal starts with RunStarted"
        return {
            "run_id": self.started.run_id,
            "name": self.started.name,
            "config_digest": self.started.config_digest,
            "code_version": self.started.code_version,
            "status": self.status,
            "lanes": [self.lane_json(lane) for lane in self.lanes.values()],
            "events": self.events,
            "journal_offset_tracked": tracked_offset,
        }

    # ------------------------------------------------------------ taking events in

    def _start(self, event: RunStarted) -> bool:
        self.started = event
        self.lanes = {
            lane["name"]: LaneFold(lane["name"], lane["method"]["kind"], lane["seed"], lane)
            for lane in event.config["lanes"]
        }
        return True

    def _resume(self) -> bool:
        self.status, self.ended = "running", None
        for lane in self.lanes.values():
            lane.lost, lane.failed, lane.retries = lane.attempt, False, {}
        return True

    def _add_to_lane(self, lane: LaneFold, event: Event) -> bool:
        match event:
            case EvaluationDone():
                return _measured(lane, event)
            case WorkFailed():
                return self._work_failed(lane, event)
            case _ if event.attempt <= lane.lost:  # type: ignore[union-attr]
                return False
            case LaneOpened():
                lane.attempt = event.attempt
                lane.backend, lane.shape = event.report.backend, event.report.shape
                for name, layer in event.report.shape.layers.items():
                    lane.births.setdefault(name, [-1] * layer.experts)
                return True
            case LaneClosed():
                lane.closed = True
                return True
            case StageStarted() | IntervalDone() | EditApplied() | CheckpointSaved():
                return _answered(lane, event)
        raise AssertionError(f"unknown event {event!r}")

    def _work_failed(self, lane: LaneFold, event: WorkFailed) -> bool:
        """Count it against the config's budget, as the controller does."""
        assert self.started is not None
        if event.kind != "evaluation":
            if event.attempt <= lane.lost:
                return False
            lane.lost = event.attempt
        lane.failures += 1
        key = (event.kind, event.index)
        lane.retries[key] = lane.retries.get(key, 0) + 1
        budget = self.started.config.get("failures", {}).get(event.kind)
        if budget is not None and lane.retries[key] > budget["retries"]:
            lane.failed = budget["then"] != "skip_stage"
        return True

    # ------------------------------------------------------------ telling

    def lane_json(self, lane: LaneFold) -> Json:
        """One lane of the report."""
        return {
            "lane": lane.name,
            "method": lane.method,
            "seed": lane.seed,
            "status": self.lane_status(lane),
            "attempts": lane.attempt,
            "failures": lane.failures,
            "stages": [self.stage_json(lane, index) for index in sorted(lane.stages)],
            "tasks": lane.tasks(),
            "matrix": lane.matrix(),
            "initial": lane.untrained(),
            "metrics": summarise(lane.complete(), lane.untrained()),
        }

    def stage_json(self, lane: LaneFold, index: int) -> Json:
        """One stage of a lane's report."""
        stage, ref = lane.stages[index], lane.stages[index].checkpoint
        return {
            "id": stage.spec.id,
            "index": index,
            "task": stage.spec.task.name,
            "domain": stage.spec.task.domain,
            "parent": stage.spec.parent,
            "status": self.stage_status(lane, index),
            "intervals": stage.intervals,
            "steps": stage.steps,
            "seconds": round(stage.seconds, 3),
            "data": {"source": stage.data.source, "digest": stage.data.data_digest},
            "checkpoint": None if ref is None else {"uri": ref.uri, "digest": ref.digest},
            "adopted_from": stage.adopted_from,
            "edits": [edit_json(*pair) for pair in lane.stage_edits(stage.spec.id)],
            "routing": lane.routing(index),
            "details": lane.rows[index].details if index in lane.rows else {},
        }


def edit_json(edit: Edit, report: EditReport) -> Json:
    """An applied edit: what was asked for and why, what came of it."""
    return {
        **asdict(edit),
        "before": asdict(report.before),
        "after": asdict(report.after),
        "probe_change": report.probe_change,
        "fingerprint": report.fingerprint,
        "parents": report.parents,
        "seconds": report.seconds,
    }


def report(records: Iterable[Record], tracked_offset: int = 0) -> Json:
    """The report of a whole journal; ``tracked_offset`` = bytes of it that MLflow shows."""
    fold = RunFold()
    for record in records:
        fold.add(record)
    return fold.json(tracked_offset)


def _measured(lane: LaneFold, event: EvaluationDone) -> bool:
    """A row of the matrix; details name the tasks where they cover all of them."""
    if event.index in lane.rows:
        return False
    scores = event.report.scores
    report = event.report
    lane.rows[event.index] = Row(
        list(scores), event.at, report.usage, report.details, report.probes
    )
    if len(event.report.details) == len(scores):
        for index, name in enumerate(event.report.details):
            lane.names.setdefault(index, name)
    return True


def _count(stage: StageFold, counts: dict[str, dict[str, list[int]]]) -> None:
    """Add an interval's counts to the stage's."""
    for layer, rows in counts.items():
        known = stage.counts.setdefault(layer, {})
        for domain, row in rows.items():
            before = known.get(domain, [])
            known[domain] = [a + b for a, b in zip_longest(before, row, fillvalue=0)]


def _answered(lane: LaneFold, event: Answer) -> bool:
    """The answer to a numbered command counts the first time only."""
    first = event.seq > lane.answered
    lane.answered = max(event.seq, lane.answered)
    match event:
        case EditApplied():
            lane.edits[event.edit.id] = (event.edit, event.report)
            lane.shape = event.report.after
            if first:
                for layer, parents in event.report.parents.items():
                    lane.births.setdefault(layer, []).extend([max(lane.stages)] * len(parents))
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
            _count(stage, event.report.counts)
            stage.seconds += event.report.seconds
            stage.rss_mb = max(stage.rss_mb, event.report.rss_mb)
        case CheckpointSaved(index=-1):
            lane.initial = event.checkpoint
        case CheckpointSaved(final=True):
            lane.stages[event.index].checkpoint = event.checkpoint
            lane.stages[event.index].saved = event.at
            lane.stages[event.index].adopted_from = event.adopted_from
    return first
