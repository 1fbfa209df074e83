"""The results of a run in a terminal: a row a variant, seeds taken together, and its matrix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from orchestrator.report.comparisons import COMPARISONS
from orchestrator.report.statistics import estimate
from orchestrator.report.summary import HEADLINES
from orchestrator.report.text import failure_text, part_text, wide
from workers.contract import Json

CELL = 20
"""Characters of a metric's column, its borders included."""


def print_report(result: Json, every_lane: bool = False) -> None:
    """The results of a run: metrics and matrix of each variant, mean over its seeds.

    ``every_lane``: each seed's matrix by itself.
    """
    console = wide()
    groups = _groups(result["lanes"])
    console.print(_lanes_table(result, groups))
    measured = {name: lanes for name, lanes in groups.items() if any(x["metrics"] for x in lanes)}
    longest = max(map(len, groups), default=0)
    room = max(1, (console.width - longest - 4) // CELL)
    for start in range(0, len(HEADLINES) if measured else 0, room):
        console.print(_metrics_table(measured, HEADLINES[start : start + room]))
    for name, lanes in groups.items():
        if rests := part_text(lanes[0]):
            console.print(f"{name}: {rests}", markup=False, highlight=False, soft_wrap=True)
    if any(lane["baselines"] for lane in result["lanes"]):
        console.print(_against(result["lanes"]))
    for lane in result["lanes"]:
        if lane["status"] == "failed":
            text = f"{lane['lane']} {failure_text(lane)}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
    for lanes in [[lane] for lane in result["lanes"]] if every_lane else groups.values():
        _print_matrix(console, lanes)
        for lane in lanes:
            if any(edit["noun"] == "mask" for s in lane["stages"] for edit in s["edits"]):
                console.print(_specialisation(lane))


def _groups(lanes: Sequence[Json]) -> dict[str, list[Json]]:
    """Lanes by their name without the seed."""
    found: dict[str, list[Json]] = {}
    for lane in lanes:
        label = lane["lane"].removesuffix(f"-s{lane['seed']}") or lane["lane"]
        found.setdefault(label, []).append(lane)
    return found


def _lanes_table(result: Json, groups: Mapping[str, Sequence[Json]]) -> Table:
    """What was done: seeds, stages saved, edits."""
    table = Table(title=f"{result['run_id']}: {result['status']}", title_justify="left")
    for column in ("variant", "method", "seeds", "stages", "edits"):
        left = column in ("variant", "method")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    for name, lanes in groups.items():
        saved = sum(s["checkpoint"] is not None for lane in lanes for s in lane["stages"])
        seeds = ", ".join(str(lane["seed"]) for lane in lanes)
        table.add_row(name, lanes[0]["method"], seeds, str(saved), _edits(lanes))
    return table


def _metrics_table(groups: Mapping[str, Sequence[Json]], names: Sequence[str]) -> Table:
    """Metrics of each variant: mean over seeds, half width of the 95 % interval."""
    table = Table()
    table.add_column("variant", overflow="fold")
    for name in names:
        table.add_column(name, justify="right")
    for variant, lanes in groups.items():
        found = (estimate(x["metrics"][n] for x in lanes if n in x["metrics"]) for n in names)
        table.add_row(variant, *("-" if one is None else one.text() for one in found))
    return table


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


def _edits(lanes: Sequence[Json]) -> str:
    """How often each kind of edit was made, e.g. ``1 growth, 2 masks``."""
    nouns = Counter(e["noun"] for lane in lanes for stage in lane["stages"] for e in stage["edits"])
    found = [f"{n} {noun}{'s' if n > 1 else ''}" for noun, n in sorted(nouns.items())]
    return ", ".join(found) or "-"


def _print_matrix(console: Console, lanes: Sequence[Json]) -> None:
    """Score on each task after each stage, mean over lanes; where tasks have no room beside each
    other, what is told of them together."""
    first, tasks = lanes[0], lanes[0]["tasks"]
    alike = all(lane["tasks"] == tasks for lane in lanes)
    name = first["lane"] if len(lanes) == 1 else _label(lanes)
    mean = "" if len(lanes) == 1 else "mean "
    title = f"{name}: {mean}score on each task (columns) after each stage (rows)"
    stages = list(_rows(lanes, alike))
    rows = [*([_first_row(lanes)] if first["initial"] else []), *stages]
    named = max((len(text) for text, _ in rows), default=0)
    room = console.width - named - 4
    if alike and sum(max(5, len(task)) + 3 for task in tasks) <= room:
        heads, digits = list(tasks), 3
    elif 7 * len(tasks) <= room:
        heads, digits = [str(number) for number in range(len(tasks))], 2
        title = f"{title}, tasks by number"
    else:
        _print_ends(console, name, stages, first["learnt_after"])
        return
    table = Table(title=title, title_justify="left")
    table.add_column("after", overflow="fold")
    for head in heads:
        table.add_column(head, justify="right", overflow="fold")
    for text, scores in rows:
        cells = ["-" if score is None else f"{score:.{digits}f}" for score in scores]
        table.add_row(text, *cells)
    console.print(table)


def _print_ends(
    console: Console, name: str, rows: Sequence[tuple[str, Sequence[float | None]]], ends: list[int]
) -> None:
    """Of a long stream, after each stage: the score on what it taught, and on all tasks seen."""
    table = Table(title=f"{name}: scores after each stage", title_justify="left")
    table.add_column("after", overflow="fold")
    for head in ("on its task", "mean on tasks seen", "worst of them"):
        table.add_column(head, justify="right")
    for index, (text, scores) in enumerate(rows):
        seen = [s for s, at in zip(scores, ends, strict=True) if at <= index and s is not None]
        own = [s for s, at in zip(scores, ends, strict=True) if at == index]
        cells = [own[0] if own else None, sum(seen) / len(seen) if seen else None]
        table.add_row(text, *map(_number, [*cells, min(seen, default=None)]))
    console.print(table)


def _label(lanes: Sequence[Json]) -> str:
    (name,) = _groups(lanes)
    return f"{name} ({len(lanes)} seeds)"


def _first_row(lanes: Sequence[Json]) -> tuple[str, list[float | None]]:
    """Scores of the lanes' first models."""
    name = "untrained" if lanes[0]["start"] is None else "start"
    return name, _means([lane["initial"] for lane in lanes if lane["initial"]])


def _rows(lanes: Sequence[Json], alike: bool) -> Iterator[tuple[str, list[float | None]]]:
    """Name and scores of each stage; of a single lane with what it grew to, and who trained it.

    ``alike``: whether the lanes learn the same tasks in the same order, so that names mean all.
    """
    stages = max((lane["stages"] for lane in lanes), key=len)
    for index, stage in enumerate(stages):
        text = stage["task"] if alike else f"stage {index}"
        if len(lanes) == 1:
            grown = (edit["text"] for edit in stage["edits"] if edit["noun"] == "growth")
            text += "".join(f" ({what})" for what in grown)
            text += f" (trained by {stage['trained_by']})" if stage["trained_by"] else ""
        measured = [lane["matrix"][index] for lane in lanes if index < len(lane["matrix"])]
        if measured:
            yield text, _means(measured)


def _means(rows: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Mean over lanes of each task's score, of the lanes that have it."""
    columns = [[x for x in column if x is not None] for column in zip(*rows, strict=True)]
    return [sum(column) / len(column) if column else None for column in columns]


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


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
