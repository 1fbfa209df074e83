"""What people see while a run goes on: a live table on a terminal, else one line per event."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.config.run import RunConfig
from orchestrator.core.events import (
    CheckpointSaved,
    ClusterChanged,
    EditApplied,
    EvaluationDone,
    IntervalDone,
    LaneClosed,
    LaneEvent,
    LaneOpened,
    RunFinished,
    RunInterrupted,
    RunResumed,
    StageStarted,
    WorkFailed,
)
from orchestrator.core.records import Record
from orchestrator.report.pace import Pace, span


class Progress(Protocol):
    """Shows a run's records as they are written."""

    def add(self, record: Record) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def make_progress(config: RunConfig, quiet: bool) -> Progress:
    """A live table on a terminal, else one line per event (on stderr where ``quiet``)."""
    console = Console(stderr=quiet, highlight=False)
    shown = console.is_terminal or console.is_jupyter
    return LiveProgress(config, console) if shown else LineProgress(config, console)


# ---------------------------------------------------------------- one line per event

NAMED = 5
"""Tasks up to which a line tells each one's score."""


def line(record: Record, tasks: Mapping[str, Sequence[str]] | None = None) -> str | None:
    """The event in one line of plain text; None where it is not worth one.

    ``tasks``: lane -> names of the tasks that its models are scored on, where they are known.
    """
    match record.event:
        case LaneOpened(lane=lane, attempt=attempt, report=report):
            again = f" (attempt {attempt})" if attempt > 1 else ""
            return f"{lane}: worker ready{again}, {report.shape.parameters:,} parameters"
        case StageStarted(lane=lane, stage=stage):
            return f"{lane}: stage {stage.index} '{stage.task.name}' started"
        case IntervalDone(lane=lane, report=report):
            return (
                f"{lane}: interval {report.n}, {figures(report.metrics)} ({report.seconds:.2f} s)"
            )
        case EditApplied(lane=lane, report=report, edit=edit):
            change = (
                "" if report.probe_change is None else f", output change {report.probe_change:.3g}"
            )
            return (
                f"{lane}: {edit.text()} "
                f"({report.before.parameters:,} -> {report.after.parameters:,} parameters{change})"
            )
        case CheckpointSaved(lane=lane, index=index, final=True) if index >= 0:
            return f"{lane}: stage {index} saved"
        case EvaluationDone(lane=lane, index=index, report=report):
            what = "untrained" if index < 0 else f"after stage {index}"
            return f"{lane}: {what}, {scored(report.scores, (tasks or {}).get(lane, ()))}"
        case WorkFailed(lane=lane, kind=kind, message=message):
            return f"{lane}: {kind}: {message}"
        case LaneClosed(lane=lane):
            return f"{lane}: done"
        case ClusterChanged(cpus=cpus, gpus=gpus):
            return f"the cluster has {cpus:g} CPUs and {gpus:g} GPUs now"
        case RunResumed(settings=settings):
            return "resumed" + "".join(f", {path} = {to}" for path, to in settings.items())
        case RunInterrupted(reason=reason):
            return f"interrupted by {reason}"
        case RunFinished(status=status):
            return f"run {status}"
    return None


def scored(scores: Sequence[float], tasks: Sequence[str]) -> str:
    """Scores on all tasks: each with its task's name where they are few, else mean and ends."""
    mean = f"mean score {sum(scores) / max(1, len(scores)):.3f}"
    if len(scores) > NAMED:
        return f"{mean} over {len(scores)} tasks ({min(scores):.3f} to {max(scores):.3f})"
    if len(tasks) != len(scores):
        return f"{mean} ({', '.join(f'{score:.3f}' for score in scores)})"
    told = zip(tasks, scores, strict=True)
    return f"{mean} ({', '.join(f'{name} {score:.3f}' for name, score in told)})"


HEADLINES = ("return", "achievements", "entropy", "loss", "train_accuracy")
"""Figures of an interval that people look at first, of whichever trainer."""


def figures(metrics: Mapping[str, float], most: int = 3) -> str:
    """The headline figures of an interval, short."""
    names = [name for name in HEADLINES if name in metrics] or list(metrics)
    return ", ".join(f"{name} {metrics[name]:.4g}" for name in names[:most])


class LineProgress:
    """One line per event, for logs, jobs and pipes; after each stage what is gone and left."""

    def __init__(self, config: RunConfig, console: Console) -> None:
        self.console = console
        self.live = False
        self.board = Board(config)
        self.tasks = {
            lane.name: [task.name for task in lane.scored_tasks()] for lane in config.lanes
        }

    def add(self, record: Record) -> None:
        self.board.add(record, self.live)
        text = line(record, self.tasks)
        if not self.live or text is None:
            return
        if isinstance(record.event, CheckpointSaved):
            text = f"{text} ({self.board.gone_and_left(record.event.at)})"
        self.console.print(text, markup=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self.live = True
        return self

    def __exit__(self, *error: object) -> None:
        self.live = False


# ---------------------------------------------------------------- where lanes stand


@dataclass(frozen=True, slots=True)
class _Row:
    """Where one lane stands."""

    stages: int
    intervals: int
    """Of each stage."""
    status: str = "waiting"
    stage: str = ""
    base: int = 0
    done: int = 0
    experts: str = ""
    note: str = ""
    seen: int = 0
    """Stages learnt, of the model that was scored last."""
    scores: tuple[float, ...] = field(default=())
    pace: Pace | None = None

    @property
    def left(self) -> int:
        """Intervals still to train."""
        return 0 if self.status in ENDED else self.stages * self.intervals - self.done


ENDED = ("done", "failed")


class Board:
    """Where all lanes of a run stand, and how fast they go on."""

    def __init__(self, config: RunConfig) -> None:
        plan = config.plan()
        self.rows = {
            lane.spec.lane: _Row(stages=lane.stages, intervals=lane.intervals)
            for lane in plan.lanes
        }
        self.ends = {lane.spec.lane: lane.ends for lane in plan.lanes}
        self.pace: Pace | None = None

    def add(self, record: Record, live: bool) -> None:
        """Take a record in; only ``live`` ones tell how fast it goes on."""
        event = record.event
        if isinstance(event, RunFinished | RunInterrupted):
            left = {"RunFinished": "failed", "RunInterrupted": "interrupted"}[event.type]
            self.rows = {
                name: row if row.status == "done" else replace(row, status=left)
                for name, row in self.rows.items()
            }
        if live and self.pace is None:
            self.pace = Pace.begin(event.at)
        if not isinstance(event, LaneEvent):
            return
        row = _advanced(self.rows[event.lane], event)
        if live:
            row = replace(row, pace=row.pace or Pace.begin(event.at))
        if live and isinstance(event, IntervalDone):
            assert row.pace is not None
            assert self.pace is not None
            row, self.pace = replace(row, pace=row.pace.tick(event.at)), self.pace.tick(event.at)
        self.rows[event.lane] = row

    def gone_and_left(self, now: float) -> str:
        """``0:42 gone, some 1:10 left`` of the whole run."""
        if self.pace is None:
            return "0:00 gone"
        left = self.pace.left(sum(row.left for row in self.rows.values()))
        told = "" if left is None else f", some {span(left)} left"
        return f"{span(now - self.pace.began)} gone{told}"

    def seen(self, name: str) -> str:
        """Mean score on the tasks learnt so far."""
        row = self.rows[name]
        learnt = [s for s, end in zip(row.scores, self.ends[name], strict=False) if end < row.seen]
        return f"{sum(learnt) / len(learnt):.3f}" if learnt else ""


def _advanced(row: _Row, event: LaneEvent) -> _Row:
    match event:
        case LaneOpened():
            return replace(row, status="open")
        case StageStarted():
            stage = event.stage
            done = stage.index * row.intervals
            text = f"{stage.index + 1}/{row.stages} {stage.task.name}"
            return replace(row, status="training", stage=text, base=done, done=done)
        case IntervalDone():
            note = figures(event.report.metrics, 2)
            return replace(row, done=row.base + event.report.n, note=note)
        case EditApplied():
            live = (layer.experts for layer in event.report.after.layers.values())
            return replace(row, experts=str(max(live, default=0)))
        case EvaluationDone():
            return replace(row, scores=tuple(event.report.scores), seen=event.index + 1)
        case LaneClosed():
            return replace(row, status="done", done=row.stages * row.intervals)
        case WorkFailed():
            return replace(row, status=event.kind)
    return row


# ---------------------------------------------------------------- a live table

SHOWN = 16
"""Lanes that the table shows at once: those under way first."""
WIDE = 110
"""Columns from which on the table shows the last interval too."""


class LiveProgress:
    """A table of the lanes under way, redrawn as events come in; 80 columns are enough for it."""

    def __init__(self, config: RunConfig, console: Console) -> None:
        self.name, self.console = config.name, console
        self.board = Board(config)
        self.live = Live(console=console, refresh_per_second=4, get_renderable=self._shown)

    def add(self, record: Record) -> None:
        self.board.add(record, self.live.is_started)
        if isinstance(record.event, EditApplied | WorkFailed) and self.live.is_started:
            self.console.print(line(record), markup=False)

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def _shown(self) -> Group:
        rows = self.board.rows
        counts = Counter(_state(row) for row in rows.values())
        states = ", ".join(f"{count} {state}" for state, count in counts.items())
        head = f"{self.name}: {self.board.gone_and_left(time.time())}; lanes: {states}"
        order = sorted(rows, key=lambda name: ORDER.index(_state(rows[name])))
        hidden = len(order) - SHOWN
        foot = [Text(f"... and {hidden} lanes more")] if hidden > 0 else []
        return Group(Text(head), self._table([n for n in rows if n in order[:SHOWN]]), *foot)

    def _table(self, names: Sequence[str]) -> Table:
        table = Table(expand=True)
        wide = self.console.width >= WIDE
        columns = ["lane", "stage", "progress", "left", "experts", "seen"]
        for column in [*columns, *(["last interval"] if wide else [])]:
            right = column in ("left", "experts", "seen")
            table.add_column(
                column, overflow="ellipsis", no_wrap=True, justify="right" if right else "left"
            )
        for name in names:
            row = self.board.rows[name]
            total = row.stages * row.intervals
            filled = 8 * row.done // max(1, total)
            progress = f"{'━' * filled}{'╌' * (8 - filled)} {row.done}/{total}"
            left = None if row.pace is None else row.pace.left(row.left)
            stage = row.stage if row.status == "training" else row.status
            cells = [name, stage, progress, span(left), row.experts, self.board.seen(name)]
            table.add_row(*cells, *([row.note] if wide else []))
        return table


ORDER = ("training", "failing", "waiting", "ended")
"""States of lanes, those that people look at first at the front."""


def _state(row: _Row) -> str:
    """One of ORDER."""
    known = {"training": "training", "open": "training", "waiting": "waiting", "done": "ended"}
    known |= {"failed": "ended", "interrupted": "ended"}
    return known.get(row.status, "failing")
