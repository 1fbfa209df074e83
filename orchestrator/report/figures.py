"""Figures of a lane and of a run as PNG bytes. Knows only the report's JSON.

Draws on canvases of its own (no pyplot), so any thread may call it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.report.colours import lane_colours
from workers.contract import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LAYERS = 4
"""Layers of which gate weights are drawn; more would not be readable."""
TICKS = 24
"""Labels on an axis; more would overlap."""
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#17becf", "#bcbd22")


def accuracy_matrix(lane: Json) -> bytes:
    """Heat map of R: row = after stage (untrained first), column = task."""
    rows = [lane["initial"], *lane["matrix"]] if lane["initial"] else lane["matrix"]
    first = 0 if lane["initial"] else 1
    names = ["untrained", *_stage_names(lane, len(lane["matrix"]))][first:]
    width = min(12.0, 2.4 + 0.62 * len(lane["tasks"]))
    figure, (axes,) = canvas(width, min(10.0, 1.5 + 0.42 * len(rows)))
    values = [[float("nan") if x is None else x for x in row] for row in rows]
    image = axes.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    if len(rows) * len(lane["tasks"]) <= 225:
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                colour = "black" if value > 0.6 else "white"
                text = "" if math.isnan(value) else f"{value:.2f}"
                axes.text(j, i, text, ha="center", va="center", color=colour, size=7)
    ticks(axes.set_xticks, lane["tasks"], rotation=30, ha="right")
    ticks(axes.set_yticks, names)
    axes.set_xlabel("task")
    axes.set_ylabel("after stage")
    axes.set_title(f"{lane['lane']}: score on each task", size=10)
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    return png(figure)


def task_curves(lane: Json) -> bytes:
    """Score on each task over stages learnt; dashed lines mark growth, dots where it was learnt."""
    figure, (axes,) = canvas(7.2, 3.6)
    rows = [lane["initial"] or None, *lane["matrix"]]
    for task, name in enumerate(lane["tasks"]):
        seen = [(x, row[task]) for x, row in enumerate(rows) if row and row[task] is not None]
        colour = COLOURS[task % len(COLOURS)]
        axes.plot([x for x, _ in seen], [y for _, y in seen], label=name, color=colour, lw=1.4)
        learnt = [(x, y) for x, y in seen if x == lane["learnt_after"][task] + 1]
        axes.plot([x for x, _ in learnt], [y for _, y in learnt], "o", ms=5, color=colour)
    _growth(axes, lane)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xticks(range(len(rows)) if len(rows) <= TICKS else [0, len(rows) - 1])
    axes.set_xlabel("stages learnt (0 = untrained)")
    axes.set_ylabel("score")
    axes.set_title(f"{lane['lane']}: what is kept of each task", size=10, pad=14)
    if len(lane["tasks"]) <= 12:
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return png(figure)


def gate_weights(lane: Json, weights: Sequence[Mapping[str, Sequence[float]]]) -> bytes:
    """Heat map per layer: mean gate weight of each expert (row) at the end of each stage (column).

    ``weights`` holds layer -> weight of each expert, one entry a stage; blank = not yet born.
    """
    layers = list(dict.fromkeys(layer for stage in weights for layer in stage))[:LAYERS]
    experts = max((len(row) for stage in weights for row in stage.values()), default=1)
    size = (7.2, 1.3 + len(layers) * (0.5 + 0.3 * experts))
    figure, panels = canvas(size[0], min(11.0, size[1]), rows=max(1, len(layers)))
    for axes, layer in zip(panels, layers, strict=False):
        rows = [list(stage.get(layer, ())) for stage in weights]
        grid = [[r[e] if e < len(r) else float("nan") for r in rows] for e in range(experts)]
        image = axes.imshow(grid, vmin=0, vmax=1, cmap="magma", aspect="auto")
        for index, stage in enumerate(lane["stages"]):
            if any(_grown(edit) for edit in stage["edits"]):
                axes.axvline(index - 0.5, color="tab:cyan", ls="--", lw=1)
        axes.set_yticks(range(experts), [f"expert {e}" for e in range(experts)], size=7)
        axes.set_title(layer, size=8, loc="left")
        figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02)
        axes.set_xticks([])
    ticks(panels[-1].set_xticks, _stage_names(lane, len(weights)), rotation=30, ha="right")
    figure.suptitle(f"{lane['lane']}: gate weight of each expert (dashed: growth)", size=10)
    return png(figure)


TOKENS = 96
"""Tokens of a text that a figure shows at most."""


def episode(played: Json) -> bytes:
    """Gate weights of each layer over the steps of one episode, the floor on top.

    After figure 3 of DynamicMoE (arXiv 2511.18987).
    """
    gates: Mapping[str, Sequence[Sequence[float]]] = played["gates"]
    shown = list(gates)[:LAYERS]
    figure, panels = canvas(7.2, 1.4 + 1.3 * len(shown), rows=len(shown) + 1)
    steps = range(1, len(played["floors"]) + 1)
    panels[0].step(steps, played["floors"], color="black", lw=1.2, where="mid")
    panels[0].set_ylabel("floor", size=8)
    panels[0].locator_params(axis="y", integer=True)
    for axes, layer in zip(panels[1:], shown, strict=True):
        experts = list(zip(*gates[layer], strict=True))
        axes.stackplot(steps, experts, colors=COLOURS, labels=[str(e) for e in range(len(experts))])
        axes.set_ylim(0, 1)
        axes.set_title(layer, size=8, loc="left")
    for axes in panels:
        axes.set_xlim(1, max(2, len(steps)))
    panels[-1].set_xlabel("step of the episode")
    panels[1].legend(title="expert", fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    where = f"{played['lane']}, task {played['task']}, after stage {played['stage']}"
    figure.suptitle(f"Gate weights in one episode: {where}", size=10)
    return png(figure)


def passage(read: Json) -> bytes:
    """Gate weights of each layer for every token of a text: a row an expert, a column a token."""
    gates: Mapping[str, Sequence[Sequence[float]]] = read["gates"]
    shown, tokens = list(gates)[:LAYERS], read["tokens"][:TOKENS]
    height = sum(0.9 + 0.16 * len(gates[layer][0]) for layer in shown)
    figure, panels = canvas(1.5 + 0.17 * len(tokens), 1.0 + height, rows=len(shown))
    for axes, layer in zip(panels, shown, strict=True):
        weights = list(zip(*gates[layer][: len(tokens)], strict=True))
        most = max(1.0, max(map(max, weights)))
        axes.imshow(
            weights, aspect="auto", cmap="Blues", vmin=0, vmax=most, interpolation="nearest"
        )
        axes.set_title(layer, size=8, loc="left")
        axes.set_ylabel("expert", size=8)
        axes.set_yticks(range(len(weights)), labels=[str(e) for e in range(len(weights))], size=6)
        axes.set_xticks([])
    words = [token.replace("\n", "\u21b5").replace("$", r"\$") or "\u00b7" for token in tokens]
    panels[-1].set_xticks(range(len(words)), labels=words, rotation=90, size=6)
    where = f"{read['lane']}, task {read['task']}, after stage {read['stage']}"
    part = f" (first {len(shown)} of {len(gates)} layers)" if len(shown) < len(gates) else ""
    figure.suptitle(f"Gate weights along a text: {where}{part}", size=10)
    return png(figure)


def methods(report: Json) -> bytes:
    """Mean score over tasks seen, over stages learnt: a line per method, a band over its seeds.
    Lanes that learn each task alone have no such curve."""
    figure, (axes,) = canvas(7.2, 3.6)
    groups: dict[str, list[list[float]]] = {}
    for lane in report["lanes"]:
        curve = [
            sum(row[:learnt]) / learnt
            for i, row in enumerate(lane["matrix"])
            if None not in row and (learnt := sum(at <= i for at in lane["learnt_after"]))
        ]
        if curve and lane["course"] != "alone":
            label = lane["lane"].removesuffix(f"-s{lane['seed']}")
            groups.setdefault(label, []).append(curve)
    colours = lane_colours([(label, label) for label in groups])
    for label, curves in groups.items():
        columns = [[c[i] for c in curves if i < len(c)] for i in range(max(map(len, curves)))]
        steps = range(1, len(columns) + 1)
        means = [sum(column) / len(column) for column in columns]
        axes.plot(steps, means, label=f"{label} ({len(curves)})", color=colours[label], lw=1.6)
        low, high = [min(c) for c in columns], [max(c) for c in columns]
        axes.fill_between(steps, low, high, color=colours[label], alpha=0.18, lw=0)
    axes.set_ylim(-0.02, 1.02)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("stages learnt")
    axes.set_ylabel("mean score on tasks seen")
    axes.set_title("Methods: mean and range over seeds", size=10)
    axes.legend(fontsize=8, frameon=False)
    return png(figure)


def _growth(axes: Axes, lane: Json) -> None:
    """Dashed lines where the model grew: at the share of the stage's intervals done by then."""
    for stage in lane["stages"]:
        for edit in stage["edits"]:
            share = edit["after_interval"] / max(stage["intervals"], edit["after_interval"], 1)
            grown = _grown(edit)
            if not grown:
                continue
            at = stage["index"] + share
            axes.axvline(at, color="grey", ls="--", lw=1)
            text = f"{grown} exp."
            above = axes.get_xaxis_transform()
            axes.text(at, 1.01, text, size=7, color="grey", ha="center", transform=above)


def _grown(edit: Json) -> int:
    """Experts of the largest layer after an edit that added some; 0 where it added none."""
    before, after = (
        {name: layer["experts"] for name, layer in edit[when]["layers"].items()}
        for when in ("before", "after")
    )
    more = any(experts > before.get(name, 0) for name, experts in after.items())
    return max(after.values()) if more else 0


def _stage_names(lane: Json, count: int) -> list[str]:
    names = {stage["index"]: stage["task"] for stage in lane["stages"]}
    return [f"{index:02d} {names.get(index, '')}".strip() for index in range(count)]


def ticks(setter: Callable[..., Any], names: Sequence[str], **style: object) -> None:
    """Label every n-th position so that at most TICKS labels stand."""
    step = max(1, -(-len(names) // TICKS))
    places = range(0, len(names), step)
    setter(list(places), [names[place][:18] for place in places], size=7, **style)


def canvas(width: float, height: float, rows: int = 1) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, 1, squeeze=False)[:, 0])


def png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
