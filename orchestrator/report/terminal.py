"""What people see in a terminal: live progress while a run goes on, and its results after."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from orchestrator.config.describing import Entry
from orchestrator.config.plan import PlannedLane, to_train
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
    Record,
    RunFinished,
    RunInterrupted,
    RunResumed,
    StageStarted,
    WorkFailed,
)
from orchestrator.report.comparisons import COMPARISONS
from orchestrator.report.text import Links, failure_text
from workers.contract import InputError, Json, Memory


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
    return LiveProgress(config, console) if console.is_terminal else LineProgress(console)


# ---------------------------------------------------------------- one line per event


def line(record: Record) -> str | None:
    """The event in one line of plain text; None where it is not worth one."""
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
            scores = " ".join(f"{score:.3f}" for score in report.scores)
            what = "untrained" if index < 0 else f"after stage {index}"
            return f"{lane}: {what}, scores on all tasks: {scores}"
        case WorkFailed(lane=lane, kind=kind, message=message):
            return f"{lane}: {kind}: {message}"
        case LaneClosed(lane=lane):
            return f"{lane}: done"
        case ClusterChanged(cpus=cpus, gpus=gpus):
            return f"the cluster has {cpus:g} CPUs and {gpus:g} GPUs now"
        case RunResumed():
            return "resumed"
        case RunInterrupted(reason=reason):
            return f"interrupted by {reason}"
        case RunFinished(status=status):
            return f"run {status}"
    return None


HEADLINES = ("return", "achievements", "entropy", "loss", "train_accuracy")
"""Figures of an interval that people look at first, of whichever trainer."""


def figures(metrics: Mapping[str, float], most: int = 3) -> str:
    """The headline figures of an interval, short."""
    names = [name for name in HEADLINES if name in metrics] or list(metrics)
    return ", ".join(f"{name} {metrics[name]:.4g}" for name in names[:most])


class LineProgress:
    """One line per event: for logs, jobs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = False

    def add(self, record: Record) -> None:
        text = line(record)
        if self.live and text is not None:
            self.console.print(text, markup=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self.live = True
        return self

    def __exit__(self, *error: object) -> None:
        self.live = False


# ---------------------------------------------------------------- a live table


@dataclass(frozen=True, slots=True)
class _Row:
    """What the live table shows of one lane."""

    stages: int
    intervals: int
    status: str = "waiting"
    stage: str = ""
    base: int = 0
    done: int = 0
    experts: str = ""
    note: str = ""
    scores: tuple[float, ...] = field(default=())


class LiveProgress:
    """A table of lanes that is redrawn as events come in."""

    def __init__(self, config: RunConfig, console: Console) -> None:
        self.name = config.name
        self.rows = {
            lane.name: _Row(stages=len(lane.tasks()), intervals=lane.intervals)
            for lane in config.lanes
        }
        self.live = Live(console=console, refresh_per_second=4, get_renderable=self._table)

    def add(self, record: Record) -> None:
        event = record.event
        if isinstance(event, LaneEvent):
            self.rows[event.lane] = _advanced(self.rows[event.lane], event)
        if isinstance(event, EditApplied | WorkFailed) and self.live.is_started:
            self.live.console.print(line(record), markup=False)

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def _table(self) -> Table:
        table = Table(title=self.name, title_justify="left", expand=True)
        for column in ("lane", "status", "stage", "progress", "experts", "last interval", "scores"):
            table.add_column(column, overflow="fold" if column == "scores" else "ellipsis")
        for name, row in self.rows.items():
            total = row.stages * row.intervals
            filled = 12 * row.done // max(1, total)
            bar = "━" * filled + "╌" * (12 - filled)
            scores = " ".join(f"{score:.2f}" for score in row.scores)
            progress = f"{bar} {row.done}/{total}"
            table.add_row(name, row.status, row.stage, progress, row.experts, row.note, scores)
        return table


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
            return replace(row, scores=tuple(event.report.scores))
        case LaneClosed():
            return replace(row, status="done", done=row.stages * row.intervals)
        case WorkFailed():
            return replace(row, status=event.kind)
    return row


# ---------------------------------------------------------------- results


def print_report(result: Json) -> None:
    """The results of a run: one row per lane, then each lane's matrix and edits."""
    console = _wide()
    names = ("acc.final", "acc.incremental", "forgetting.max", "bwt.gem", "learning_accuracy")
    table = Table(title=f"{result['run_id']}: {result['status']}", title_justify="left")
    for column in ("lane", "method", "seed", "stages", "edits", *names):
        table.add_column(column, justify="left" if column in ("lane", "method") else "right")
    for lane in result["lanes"]:
        metrics = lane["metrics"]
        saved = sum(stage["checkpoint"] is not None for stage in lane["stages"])
        row = [_number(metrics.get(name)) for name in names]
        table.add_row(
            lane["lane"], lane["method"], str(lane["seed"]), str(saved), _edits(lane), *row
        )
    console.print(table)
    if any(lane["baselines"] for lane in result["lanes"]):
        console.print(_against(result["lanes"]))
    for lane in result["lanes"]:
        if lane["status"] == "failed":
            text = f"{lane['lane']} {failure_text(lane)}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
        console.print(_matrix(lane))
        if any(edit["noun"] == "mask" for s in lane["stages"] for edit in s["edits"]):
            console.print(_specialisation(lane))


def _against(lanes: list[Json]) -> Table:
    """Each lane's scores against its baselines, which are named."""
    table = Table(title="against baselines", title_justify="left")
    table.add_column("lane")
    for name, (kind, _) in COMPARISONS.items():
        table.add_column(f"{name} ({kind})", justify="right")
    table.add_column("baselines")
    for lane in lanes:
        if lane["baselines"]:
            row = [_number(lane["metrics"].get(name)) for name in COMPARISONS]
            named = (f"{kind}: {name}" for kind, name in lane["baselines"].items())
            table.add_row(lane["lane"], *row, "\n".join(named))
    return table


def _edits(lane: Json) -> str:
    """How often each kind of edit was made, e.g. ``1 growth, 2 masks``."""
    nouns = Counter(edit["noun"] for stage in lane["stages"] for edit in stage["edits"])
    found = [f"{n} {noun}{'s' if n > 1 else ''}" for noun, n in sorted(nouns.items())]
    return ", ".join(found) or "-"


def _matrix(lane: Json) -> Table:
    title = f"{lane['lane']}: score on each task (columns) after each stage (rows)"
    table = Table(title=title, title_justify="left")
    table.add_column("after")
    for task in lane["tasks"]:
        table.add_column(task, justify="right")
    if lane["initial"]:
        first = "untrained" if lane["start"] is None else "start"
        table.add_row(first, *(_number(score) for score in lane["initial"]))
    for stage, row in zip(lane["stages"], lane["matrix"], strict=False):
        grown = "".join(f" ({edit['text']})" for edit in stage["edits"] if edit["noun"] == "growth")
        scores = [_number(score) for score in row] if row else ["-"] * len(lane["tasks"])
        other = f" (trained by {stage['trained_by']})" if stage["trained_by"] else ""
        table.add_row(f"{stage['task']}{grown}{other}", *scores)
    return table


ROUTING = (
    "conditional_entropy",
    "marginal_entropy",
    "load_cv",
    "dead_experts",
    "experts_per_token",
    "specialisation",
)
"""Figures of an evaluation that the table of experts by domain shows."""


def _specialisation(lane: Json) -> Table:
    """Masks, domain scores and routing measures after each stage."""
    rows = []
    for stage in lane["stages"]:
        masks = [edit for edit in stage["edits"] if edit["noun"] == "mask"]
        figures = stage["figures"].get(stage["task"], {})
        domains = {
            name.removeprefix("accuracy/"): score
            for name, score in figures.items()
            if name.startswith("accuracy/")
        }
        scores = "\n".join(f"{name} {score:.3f}" for name, score in domains.items())
        told = figures | stage["model_figures"]
        told = {name: value for name, value in told.items() if name.split("/")[0] in ROUTING}
        routing = "\n".join(_measures(told | stage["routing"]))
        rows.append((stage["task"], _refreshes(masks), scores, routing))
    names = ("after", "masks", "domains", "routing (layer by layer)")
    shown = [i for i, name in enumerate(names) if name != "domains" or any(row[i] for row in rows)]
    table = Table(title=f"{lane['lane']}: experts by domain", title_justify="left")
    for i in shown:
        table.add_column(names[i])
    for row in rows:
        table.add_row(*(row[i] for i in shown))
    return table


def _refreshes(masks: list[Json]) -> str:
    """The last of a stage's masks, and how many there were."""
    if not masks:
        return "-"
    last = f"{masks[-1]['text']} after interval {masks[-1]['after_interval']}"
    return last if len(masks) == 1 else f"{last},\nthe last of {len(masks)}"


def _measures(figures: Mapping[str, float]) -> Iterator[str]:
    """One line per figure with its value in every layer, first layer first."""
    by_figure: dict[str, list[float]] = {}
    for name, value in figures.items():
        figure, _, where = name.partition("/")
        layer, _, part = where.partition("/")
        shown = f"{figure}/{part}" if part else figure
        by_figure.setdefault(shown if "." in layer else name, []).append(value)
    for figure, values in by_figure.items():
        yield " ".join([figure, *(f"{value:.2f}" for value in values)])


def _wide() -> Console:
    """Where no terminal sets the width (logs, jobs, pipes), tables take the room they need."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def print_links(
    links: Links, run_dir: Path | str, shown: tuple[str, ...] = ("tree", "lanes", "methods")
) -> None:
    """How to look at the run (or sweep) in the MLflow UI, and again here."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"folder: {run_dir}", markup=False)
    if links.command is not None:
        console.print("to browse it, start the MLflow UI with:", markup=False)
        console.print(f"  {links.command}", markup=False)
    for name in shown:
        console.print(f"  {name}: {asdict(links)[name]}", markup=False)


def free_port(first: int, most: int = 100) -> int:
    """The first port from ``first`` on that nothing on this machine listens to."""
    for port in range(first, first + most):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise InputError(f"ports {first} to {first + most - 1} are all in use; free one of them")


def print_plan(config: RunConfig, lanes: tuple[PlannedLane, ...]) -> None:
    """The plan as one table per lane."""
    console = _wide()
    console.print(f"{config.name}: config {config.digest}, {len(lanes)} lane(s)")
    for lane in lanes:
        need = ", ".join(f"{name} {value}" for name, value in lane.resources.items() if value)
        several = f"{lane.workers} workers, each " if lane.workers > 1 else ""
        begun = f"\nbegins with {lane.start}" if lane.start is not None else ""
        begun += f"\nmade of {', '.join(lane.merged)}" if lane.merged else ""
        begun += f"\n{COURSES[lane.course]}" if lane.course in COURSES else ""
        begun += (
            f"\nmeasured against {', '.join(lane.baselines.values())}" if lane.baselines else ""
        )
        told = f"{lane.trainer}, {lane.method}, seed {lane.seed}; {several}{need}"
        table = Table(
            title=f"{lane.lane} ({told}){begun}",
            title_justify="left",
        )
        for column in ("stage", "task", "domain", "waits for", "intervals", "experts", "params"):
            table.add_column(column)
        for stage in lane.stages:
            parameters = "-" if stage.parameters is None else f"{stage.parameters:,}"
            experts = _experts(stage.experts, stage.last_experts)
            other = stage.trained_by
            waits_for = stage.waits_for if other is None else f"trained by {other}"
            cells = (stage.id, stage.task, stage.domain, waits_for)
            table.add_row(*cells, str(stage.intervals), experts, parameters)
        console.print(table)
        if lane.memory is not None:
            text = "; ".join([_needs(lane.memory), *lane.memory_notes])
            console.print(text, markup=False, soft_wrap=True)
    stages, trained = sum(len(lane.stages) for lane in lanes), to_train(lanes)
    saved = f" instead of {stages}: lanes have first stages in common" if trained < stages else ""
    beside = to_train(lanes, baselines=True)
    baselines = f"; {beside} of them for baselines" if beside else ""
    console.print(f"stages to train: {trained}{saved}{baselines}")


COURSES = {
    "alone": "each task alone, from the lane's first model",
    "none": "scored as it begins, not trained",
}
"""Course of a lane that is not the stream's -> what its plan says of it."""


def _needs(memory: Memory) -> str:
    """The memory of one worker in one line; parts of its peak that come apart do not add up."""
    known = {"weights": memory.weights, "gradients": memory.gradients}
    known |= {"optimizer state": memory.optimizer, "its step": memory.update}
    parts = [f"{name} {_size(value)}" for name, value in known.items()]
    for name, value in (("activations", memory.activations), ("scoring", memory.scoring)):
        parts.append(f"{name} {'unknown' if value is None else _size(value)}")
    peak = "unknown" if memory.total is None else _size(memory.total)
    return f"memory of a worker beside its data: peak {peak} ({', '.join(parts)})"


def _size(count: int) -> str:
    """Bytes, as people read them."""
    value, units = float(count), iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while value >= 1024 and unit != "TiB":
        value, unit = value / 1024, next(units)
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _experts(first: int | None, last: int | None) -> str:
    """``4``, ``4 to 6`` where the model grows inside a stage, or ``-``."""
    if first is None or last is None:
        return "-"
    return str(first) if first == last else f"{first} to {last}"


USED_BY = {"spaces": "spaces (not for a config: python -m tune_spaces NAME)"}
"""Headings of tables that something else than a config names."""


def print_tables(tables: Mapping[str, Mapping[str, str]]) -> None:
    """Print tables (name -> entry -> one line on it) as a tree: ``growstage list``."""
    tree = Tree("what a config can name (or give module:Class)")
    for name, entries in tables.items():
        branch = tree.add(USED_BY.get(name, name))
        for entry, text in entries.items():
            branch.add(f"{entry}: {text}")
    _wide().print(tree, markup=False)


def print_entry(found: Entry) -> None:
    """One entry of a table: its keys one under the other, each with all that is known of it."""
    console = Console(highlight=False)
    console.print(f"{found.name}: {found.text}", markup=False)
    for key in found.keys:
        head = f"{key.name}: {key.type}" + (f" ({key.allowed})" if key.allowed else "")
        told = "required" if key.default == "required" else f"default {key.default}"
        console.print(Padding(Text(f"{head}; {told}", style="bold"), (0, 0, 0, 2)))
        if key.text:
            console.print(Padding(Text(key.text), (0, 0, 0, 6)))


def print_data(rows: list[Json]) -> None:
    """Data sets and where they are."""
    table = Table()
    for column in rows[0] if rows else ():
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    _wide().print(table)
