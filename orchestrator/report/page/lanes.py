"""What the page shows of one lane: plain values and charts for the template. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import islice

from markupsafe import Markup

from orchestrator.report.history import RunHistory
from orchestrator.report.lane_history import LaneHistory
from orchestrator.report.lifetimes import lifetimes, moment
from orchestrator.report.page.charts import Bar, Mark, Series, lines, timeline
from orchestrator.report.row_by_row import after_each
from orchestrator.report.text import failure_text, part_text
from workers.contract import Json

LAYERS = 6
"""Layers of which experts and gate weights are shown; the page says how many more there are."""
EXPERTS = 32
"""Experts of a layer that are shown."""
CELLS = 2500
"""Cells of a matrix that are shown; a larger one is in the tables beside the page."""
COLUMNS = 40
"""Stages of which gate weights are shown, evenly over longer streams."""
MARKS = 40
"""Edits of one kind that charts mark, evenly over more."""
EDITS = 200
"""Edits that are listed; the page says how many there are."""
TASKS = 10
"""Tasks up to which each has a line in the chart of what is kept."""


def lane_view(history: RunHistory, lane: LaneHistory, anchor: str) -> Json:
    """Values of one lane's section of the page; ``anchor`` names it on the page."""
    told = history.lane_json(lane)
    marks = _marks(lane)
    edits = [
        {**edit, "stage_index": stage["index"], "task": stage["task"]}
        for stage in told["stages"]
        for edit in stage["edits"]
    ]
    return {
        **told,
        "anchor": anchor,
        "failure": failure_text(told) if told["status"] == "failed" else "",
        "rests": part_text(told),
        "rows": _rows(told),
        "charts": [chart for chart in (_learning(lane, marks), _course(lane, marks)) if chart]
        + [chart for chart in (_kept(told, marks), _experts(lane)) if chart],
        "gates": _gates(lane),
        "hidden_layers": max(0, len(lane.founders) - LAYERS),
        "routing": _routing(told),
        "edits": edits[:EDITS],
        "edits_in_all": len(edits),
        "seconds": sum(stage["seconds"] for stage in told["stages"]),
        "parameters": None if lane.shape is None else lane.shape.parameters,
        "backend": lane.backend,
    }


def _rows(lane: Json) -> list[Json]:
    """Rows of the matrix, that of the first model at the front: name, scores, tasks learnt; none
    where it is too large to look at."""
    if len(lane["matrix"]) * len(lane["tasks"]) > CELLS:
        return []
    first = "untrained" if lane["start"] is None and not lane["merged"] else "start"
    rows = [{"name": first, "scores": lane["initial"], "learnt": []}] if lane["initial"] else []
    names = {stage["index"]: stage["task"] for stage in lane["stages"]}
    for index, scores in enumerate(lane["matrix"]):
        learnt = [place for place, at in enumerate(lane["learnt_after"]) if at == index]
        name = f"{index:02d} {names.get(index, '')}".strip()
        rows.append({"name": name, "scores": scores, "learnt": learnt})
    return rows


def _marks(lane: LaneHistory) -> list[Mark]:
    """What charts mark: every edit, or some of each kind evenly over a lane with many."""
    by_noun: dict[str, list[Mark]] = {}
    for index, edit, _ in lane.kept_edits():
        mark = Mark(
            x=moment(index, edit, lane.stages[index].spec.intervals),
            noun=edit.noun,
            text=f"{edit.text()}: {edit.cause.policy} ({edit.cause.trigger})",
        )
        by_noun.setdefault(edit.noun, []).append(mark)
    return [mark for marks in by_noun.values() for mark in marks[:: -(-len(marks) // MARKS)]]


def _learning(lane: LaneHistory, marks: list[Mark]) -> Markup:
    """Score in training over the intervals of all stages."""
    points: list[tuple[float, float]] = []
    for index, stage in sorted(lane.stages.items()):
        count = max(len(stage.curve), stage.spec.intervals)
        points += [(index + n / count, level) for n, level in enumerate(stage.curve, start=1)]
        points.append((index + 1, math.nan))
    series = [Series(name="score in training", points=points, colour=0)]
    return lines(series, marks, x_label="stages learnt", title="Learning: score in training")


def _course(lane: LaneHistory, marks: list[Mark]) -> Markup:
    """Headline metrics after every stage; of lanes that learn each task alone, plasticity only."""
    names = {
        "acc.final": "accuracy on tasks seen",
        "learning_accuracy": "plasticity (score when learnt)",
        "forgetting.max": "forgetting",
    }
    if lane.plan.course == "alone":
        names = {"learning_accuracy": names["learning_accuracy"]}
    after = [end + 1 for end in lane.plan.ends]
    told = after_each(lane.complete(), names)
    series = [
        Series(
            name=text,
            points=[(x, at[name]) for x, at in zip(after, told, strict=False) if name in at],
            colour=number,
            dots=len(told) <= 30,
        )
        for number, (name, text) in enumerate(names.items())
    ]
    return lines(series, marks, x_label="stages learnt", title="Forgetting and plasticity")


def _kept(lane: Json, marks: list[Mark]) -> Markup:
    """Score on each task over stages, from the first model on."""
    if len(lane["tasks"]) > TASKS or lane["course"] == "alone":
        return Markup("")
    rows = [lane["initial"] or None, *lane["matrix"]]
    series = [
        Series(
            name=name,
            points=[
                (x, math.nan if row[place] is None else row[place])
                for x, row in enumerate(rows)
                if row
            ],
            colour=place,
        )
        for place, name in enumerate(lane["tasks"])
    ]
    return lines(series, marks, x_label="stages learnt", title="What is kept of each task")


def _experts(lane: LaneHistory) -> Markup:
    """From when to when each expert was there, in lanes whose number of experts changed."""
    found = lifetimes(lane)
    stages = max(lane.plan.stages, 1)
    changed = any(one.born or one.removed is not None for bars in found.values() for one in bars)
    groups = [
        (
            layer if len(known) <= EXPERTS else f"{layer} ({EXPERTS} of {len(known)} experts)",
            [
                Bar(
                    name=f"expert {one.expert}",
                    start=one.born,
                    end=stages if one.removed is None else one.removed,
                    colour=math.ceil(one.born),
                    text=_life(one.born, one.parent, one.cause, one.removed),
                )
                for one in known[:EXPERTS]
            ],
        )
        for layer, known in islice(found.items(), LAYERS)
    ]
    return timeline(groups if changed else (), stages, title="Experts over the stream")


def _life(born: float, parent: int | None, cause: str, removed: float | None) -> str:
    """What a bar says of its expert."""
    if not cause:
        text = "from the start"
    else:
        begun = "drawn anew" if parent is None else f"from expert {parent}"
        text = f"since {born:g} stages, {begun}, by {cause}"
    return text if removed is None else f"{text}; removed after {removed:g} stages"


def _gates(lane: LaneHistory) -> list[Json]:
    """Layers with the gate weight of each expert at the end of each stage: expert x stage, None =
    not there."""
    numbered = [(index, stage.gate_weights) for index, stage in sorted(lane.stages.items())]
    numbered = numbered[:: max(1, -(-len(numbered) // COLUMNS))]
    stages = [weights for _, weights in numbered]
    layers = list(dict.fromkeys(layer for weights in stages for layer in weights))
    shown = []
    for layer in layers[:LAYERS]:
        columns = [weights.get(layer, ()) for weights in stages]
        experts = min(EXPERTS, max(map(len, columns), default=0))
        if experts < 2:
            continue
        grid = [[c[e] if e < len(c) else None for c in columns] for e in range(experts)]
        shown.append({"layer": layer, "grid": grid, "stages": [index for index, _ in numbered]})
    return shown


ROUTING = {
    "conditional_entropy": "entropy of a token's gates",
    "marginal_entropy": "entropy of use",
    "load_cv": "imbalance of load",
    "dead_experts": "experts without tokens",
    "experts_per_token": "experts a token",
    "specialisation": "specialisation",
    "dormant_ratio": "dormant units",
}
"""Figures of an evaluation that tell of routing -> what the page calls them."""


def _routing(lane: Json) -> list[Json]:
    """Figure -> its mean over layers after each stage, on the task that was learnt in it."""
    found: dict[str, list[float | None]] = {}
    for place, stage in enumerate(lane["stages"]):
        figures = stage["figures"].get(stage["task"], {})
        for name, value in _means(figures).items():
            found.setdefault(name, [None] * len(lane["stages"]))[place] = value
    return [{"name": ROUTING[name], "values": found[name]} for name in ROUTING if name in found]


def _means(figures: Mapping[str, float]) -> dict[str, float]:
    """ROUTING's figures as means over layers."""
    by_name: dict[str, list[float]] = {}
    for name, value in figures.items():
        figure, _, layer = name.partition("/")
        if figure in ROUTING and "/" not in layer:
            by_name.setdefault(figure, []).append(value)
    return {name: sum(values) / len(values) for name, values in by_name.items()}
