"""What the page shows of runs as wholes: summary, bounds, lineage, promises.

Reads nothing but the stream file in a run folder, and whether checkpoints are there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from markupsafe import Markup

from orchestrator.core.folder import CHECKPOINTS, STREAM_FILE, here
from orchestrator.report.history import RunHistory
from orchestrator.report.page.charts import Node, Series, Whisker, graph, lines, whiskers
from orchestrator.report.page.lanes import lane_view
from orchestrator.report.row_by_row import after_each
from orchestrator.report.runs import Run
from orchestrator.report.summary import COSTS, MEASURES, Variant, shown, standings, variants
from workers.contract import Json
from workers.storage import is_remote, join, local_path

COST_NAMES = {
    "parameters": "parameters",
    "active": "active a sample",
    "experts": "experts",
    "seconds": "training s",
    "cpu_hours": "CPU h",
    "gpu_hours": "GPU h",
}
BOUNDS = ("acc.final", "forgetting.max")
"""Metrics that are drawn with their intervals."""


def content(runs: Sequence[Run]) -> Json:
    """All values of the page."""
    table = variants(run.history for run in runs)
    names = shown(table, MEASURES)
    standing = {name: standings(table, name) for name in names}
    return {
        "title": ", ".join(dict.fromkeys(run.started.name for run in runs)),
        "made": _time(time.time()),
        "metrics": names,
        "costs": [(name, COST_NAMES[name]) for name in shown(table, COSTS)],
        "variants": [_variant_row(one, names, standing) for one in table],
        "charts": [
            chart
            for chart in [*(_bounds(table, metric) for metric in BOUNDS), _means(runs)]
            if chart
        ],
        "runs": [_run_view(run, number) for number, run in enumerate(runs)],
    }


def _variant_row(one: Variant, names: Sequence[str], standing: dict[str, dict[str, str]]) -> Json:
    """A line of the summary; ``equal``: metrics in which it lies within noise of the best."""
    places = {name: standing[name].get(one.name) for name in names}
    return {
        "name": one.name,
        "method": one.method,
        "seeds": len(one.lanes),
        "under_way": not one.ended,
        "bound": sorted(one.baselines),
        "best": [name for name in names if places[name] == "best"],
        "equal": [name for name in names if places[name] == "equal"],
        "values": {name: _told(one, name, 3) for name in names},
        "costs": {name: _cost(one, name) for name in COSTS},
    }


def _told(one: Variant, name: str, digits: int) -> str:
    found = one.estimate(name)
    return "–" if found is None else found.text(digits)


def _cost(one: Variant, name: str) -> str:
    """Mean over seeds, short."""
    found = one.estimate(name)
    if found is None:
        return "–"
    if name in ("parameters", "active", "experts"):
        return f"{found.mean:,.0f}"
    return f"{found.mean:.3g}"


def _bounds(table: Sequence[Variant], metric: str) -> Markup:
    """Means with their intervals, a row a variant."""
    rows = [
        Whisker(name=one.name, mean=found.mean, half=found.half, bound=bool(one.baselines))
        for one in table
        if (found := one.estimate(metric)) is not None
    ]
    return whiskers(rows, title=f"{metric}: mean, 95 % interval over seeds (hollow: bounds)")


def _means(runs: Sequence[Run]) -> Markup:
    """Accuracy on the tasks seen after every stage: mean and range over seeds of each variant."""
    found: dict[str, list[dict[int, float]]] = {}
    for run in runs:
        for lane in run.history.lanes.values():
            after = enumerate(after_each(lane.complete(), ["acc.final"]), start=1)
            curve = {stages: at["acc.final"] for stages, at in after if "acc.final" in at}
            if len(curve) > 1 and lane.plan.course != "alone":
                found.setdefault(lane.label, []).append(curve)
    series = []
    for number, (name, curves) in enumerate(found.items()):
        stages = sorted(set().union(*curves))
        columns = {i: [curve[i] for curve in curves if i in curve] for i in stages}
        points = [(i, sum(column) / len(column)) for i, column in columns.items()]
        band = [(i, min(column), max(column)) for i, column in columns.items()]
        wide = band if len(curves) > 1 else ()
        series.append(Series(name=name, points=points, colour=number, band=wide))
    title = "Accuracy on tasks seen: mean and range over seeds"
    return lines(series, x_label="stages learnt", title=title)


def _run_view(run: Run, number: int) -> Json:
    """Values of one run's section."""
    history, started = run.history, run.started
    anchors = {name: f"r{number}l{place}" for place, name in enumerate(history.lanes)}
    file = run.path / STREAM_FILE
    ended = history.ended or run.changed
    return {
        "anchor": f"r{number}",
        "id": started.run_id,
        "place": run.place,
        "state": run.state,
        "started": _time(started.at),
        "hours": _span(ended - started.at),
        "lineage": _lineage(history, anchors),
        "promises": _promises(run),
        "versions": _versions(run),
        "stream": file.read_text(encoding="utf-8") if file.is_file() else "",
        "lanes": [lane_view(history, lane, anchors[name]) for name, lane in history.lanes.items()],
    }


def _lineage(history: RunHistory, anchors: dict[str, str]) -> Markup:
    """Which model each one goes on from: a row a lane, a column a stage."""
    nodes: list[Node] = []
    edges: list[tuple[int, int]] = []
    place: dict[tuple[str, int], int] = {}
    for row, (name, lane) in enumerate(history.lanes.items()):
        first = "untrained" if lane.start is None and not lane.merged else "start"
        indices = [-1, *sorted(i for i, s in lane.stages.items() if s.trained_by is None)]
        for index in indices:
            text = first if index < 0 else lane.stages[index].spec.task.name[:10]
            begun = "waiting" if lane.initial is None else "done"
            tone = begun if index < 0 else history.stage_status(lane, index)
            told = f"{name}: {first}" if index < 0 else _stage_told(history, name, index)
            place[name, index] = len(nodes)
            nodes.append(
                Node(column=index + 1, row=row, text=text, tone=tone, link=anchors[name], told=told)
            )
    for name, lane in history.lanes.items():
        for index in sorted(lane.stages):
            if (name, index) not in place:
                continue
            before = [i for i, s in lane.stages.items() if i < index and s.checkpoint]
            last = -1 if lane.plan.course == "alone" else max(before, default=-1)
            owner = lane.stages[last].trained_by if last >= 0 else None
            edges.append((place[owner or name, last], place[name, index]))
    return graph(nodes, edges, list(history.lanes), title="Lineage: which model goes on from which")


def _stage_told(history: RunHistory, name: str, index: int) -> str:
    """What a model's box says when pointed at."""
    stage = history.lanes[name].stages[index]
    digest = "" if stage.checkpoint is None else f", model {stage.checkpoint.digest[:16]}"
    return f"{name}, stage {index} {stage.spec.task.name}: id {stage.spec.id}{digest}"


def _promises(run: Run) -> list[Json]:
    """What the configuration promised and what became of it."""
    history, folder = run.history, join(run.place, CHECKPOINTS)
    lanes = list(history.lanes.values())
    stages = sum(lane.plan.stages for lane in lanes)
    saved = sum(1 for lane in lanes for stage in lane.stages.values() if stage.checkpoint)
    models = stages + len(lanes)
    measured = sum(len(lane.rows) for lane in lanes)
    edits = [pair for lane in lanes for pair in lane.edits.values()]
    diverged = [x.failure for x in lanes if x.failure and x.failure.kind == "diverged"]
    failures = sum(lane.failures for lane in lanes)
    failed = [lane.name for lane in lanes if history.lane_status(lane) == "failed"]
    refs = [s.checkpoint for lane in lanes for s in lane.stages.values() if s.checkpoint]
    placed = [here(ref, folder).uri for ref in refs]
    local = [uri for uri in placed if not is_remote(uri)]
    there = sum(local_path(uri).is_dir() for uri in local)
    told = [
        ("stages trained and saved", f"{saved} of {stages}", saved == stages),
        ("models scored on every task", f"{measured} of {models}", measured >= models),
        (
            "each edit applied once, with one fingerprint on all replicas",
            f"{len(edits)} edits, {len(diverged)} diverged",
            not diverged,
        ),
        (
            "failures within their budgets",
            f"{failures} failures, lanes given up: {', '.join(failed) or 'none'}",
            not failed,
        ),
        ("checkpoints on this machine", f"{there} of {len(local)}", there == len(local)),
        *_limits(history),
    ]
    return [{"what": what, "found": found, "kept": kept} for what, found, kept in told]


def _limits(history: RunHistory) -> list[tuple[str, str, bool]]:
    """Largest numbers of experts that models may have, and those they came to."""
    found = []
    for lane in history.lanes.values():
        limit = lane.config.get("model", {}).get("max_experts")
        if limit is None or lane.shape is None:
            continue
        most = max((layer.experts for layer in lane.shape.layers.values()), default=0)
        found.append((f"{lane.name}: at most {limit} experts", f"{most} experts", most <= limit))
    return found


def _versions(run: Run) -> list[tuple[str, str]]:
    """What the results were made with."""
    lanes = run.history.lanes.values()
    data = dict.fromkeys(s.data.data_digest[:16] for x in lanes for s in x.stages.values())
    backends = dict.fromkeys(lane.backend for lane in lanes if lane.backend)
    started = run.started
    known = {
        "run": started.run_id,
        "folder": run.place,
        "code": started.code_version,
        "configuration": started.config_digest,
        "journal": f"format {started.format}, {run.history.events} records",
        "kernels": ", ".join(backends),
        "data": ", ".join(list(data)[:DIGESTS]) + (", ..." if len(data) > DIGESTS else ""),
        "tracking": started.tracking_uri or "the store beside the folder",
    }
    return [(name, text) for name, text in known.items() if text]


DIGESTS = 12
"""Digests of data that are shown."""


def _time(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))


def _span(seconds: float) -> str:
    """``2 h 05 min``, ``3 min 10 s`` or ``42 s``."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{whole} s"
