"""Figures of a sweep as PNG bytes, and how much each parameter mattered. Knows no Tune."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tune_spaces.space import Choice, Domain, LogUniform
from tune_spaces.summary import Attempt, latest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BACKGROUND = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.0}
"""Behind the values on an axis, which lines cross."""
ENOUGH = 4
"""Trials below which an importance would be noise."""


def common_stage(found: Sequence[Attempt]) -> int:
    """The last stage that at least half of the trials (and two) reached; 0 = none."""
    reached = sorted((len(attempt.values) for attempt in latest(found)), reverse=True)
    half = max(2, -(-len(reached) // 2))
    return reached[half - 1] if len(reached) >= half else 0


def comparable(found: Sequence[Attempt]) -> tuple[int, list[tuple[Mapping[str, Any], float]]]:
    """(stage, settings and objective of each trial after it): equal terms for all."""
    stage = common_stage(found)
    return stage, [
        (attempt.settings, attempt.values[stage - 1])
        for attempt in latest(found)
        if stage and len(attempt.values) >= stage
    ]


def importance(found: Sequence[Attempt], space: Mapping[str, Domain]) -> dict[str, float]:
    """Share of the objective's variance each parameter explains (fANOVA, by optuna).

    Empty where fewer than ENOUGH trials can be compared, or they all score the same.
    """
    _, points = comparable(found)
    if len(points) < ENOUGH or len({value for _, value in points}) < 2:
        return {}
    import optuna

    optuna.logging.set_verbosity(logging.WARNING)
    study = optuna.create_study(direction="maximize")
    spread = {key: domain for key, domain in space.items() if len({p[key] for p, _ in points}) > 1}
    for settings, value in points:
        study.add_trial(
            optuna.trial.create_trial(
                params={key: settings[key] for key in spread},
                distributions={key: _distribution(domain) for key, domain in spread.items()},
                value=value,
            )
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found_shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: round(float(share), 4) for key, share in found_shares.items()}


def importance_bars(shares: Mapping[str, float], objective: str) -> bytes:
    """A bar for each parameter's share of the objective's variance, the largest on top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 1.0 + 0.36 * len(shares)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    ranked = sorted(shares.items(), key=lambda item: item[1])
    bars = axes.barh([name for name, _ in ranked], [share for _, share in ranked], color="0.4")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set_xlim(0, 1.1 * max(shares.values()) or 1.0)
    axes.set_xlabel(f"share of the variance of {objective} (fANOVA)")
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def parallel_coordinates(found: Sequence[Attempt], space: Mapping[str, Domain]) -> bytes:
    """One line per trial across its parameters to the objective after the common stage."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stage, points = comparable(found)
    figure = Figure(figsize=(1.9 + 1.7 * len(space), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    scores = [value for _, value in points]
    low, high = (min(scores), max(scores)) if scores else (0.0, 1.0)
    span = (high - low) or 1.0
    for settings, value in sorted(points, key=lambda point: point[1]):
        height = (value - low) / span
        line = [_height(domain, settings[key]) for key, domain in space.items()]
        axes.plot([*line, height], color=colormaps["viridis"](height), lw=1.8, alpha=0.85)
    for x, domain in enumerate(space.values()):
        for label, y in _marks(domain):
            axes.text(x + 0.03, y, label, size=8, va="center", clip_on=False, bbox=BACKGROUND)
    for label, y in ((f"{low:.3f}", 0.0), (f"{high:.3f}", 1.0)):
        axes.text(len(space) + 0.03, y, label, size=8, va="center", clip_on=False)
    names = [key.rpartition(".")[2] for key in space]
    axes.set_xticks(range(len(space) + 1), [*names, f"objective\nafter stage {stage}"])
    axes.set_xlim(-0.1, len(space) + 0.35)
    axes.set_yticks([])
    axes.grid(axis="x", color="0.75")
    for side in ("left", "right", "top", "bottom"):
        axes.spines[side].set_visible(False)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return out.getvalue()


def _height(domain: Domain, value: Any) -> float:
    """Place of a value on its axis, 0..1."""
    from math import log

    if isinstance(domain, Choice):
        places = list(domain.values)
        return places.index(value) / max(1, len(places) - 1)
    if isinstance(domain, LogUniform):
        return (log(value) - log(domain.low)) / (log(domain.high) - log(domain.low))
    return (value - domain.low) / max(1, domain.high - domain.low)


def _marks(domain: Domain) -> list[tuple[str, float]]:
    if isinstance(domain, Choice):
        return [(str(value), _height(domain, value)) for value in domain.values]
    return [(f"{value:g}", _height(domain, value)) for value in (domain.low, domain.high)]


def _distribution(domain: Domain) -> Any:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.values)
    if isinstance(domain, LogUniform):
        return FloatDistribution(domain.low, domain.high, log=True)
    return IntDistribution(domain.low, domain.high)
