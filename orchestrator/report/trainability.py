"""How well later tasks are still learnt, from training scores. Knows no model, run or tracker.

A curve is one stage's training score over its steps: ``(steps, score)`` at each interval's end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrator.report.metrics import DECIMALS, slope

Curve = Sequence[tuple[int, float]]

ENDS = 3
"""Tasks at each end of a stream whose means are compared."""
THRESHOLD = 0.95
"""Share of the first task's final score whose reaching is waited for."""


def trainability_ratio(finals: Sequence[float]) -> float | None:
    """Mean final score of the last three tasks over that of the first three; None below six."""
    first, last = finals[:ENDS], finals[-ENDS:]
    if len(finals) < 2 * ENDS or not sum(first):
        return None
    return sum(last) / sum(first)


def steps_to(curve: Curve, wanted: float) -> int | None:
    """Steps after which the score first is so high, to the length of an interval; None = never."""
    return next((steps for steps, score in curve if score >= wanted), None)


def summarise(curves: Sequence[Curve]) -> dict[str, float]:
    """Figures of the stages learnt so far, by name; ``a_j``: final training score of task j.

    ``train.first`` and ``train.last``: a_1, a_T. ``train.slope``: least-squares slope of a_j
    against j. ``train.drop``: a_T - a_1. ``train.ratio``: see ``trainability_ratio``.
    ``train.steps.first`` and ``train.steps.last``: steps until 95 % of a_1 is reached in the first
    and the last task, the first being learnt from scratch; left out where it never was. Nothing
    where a stage has no score in training, as stages taken over from other runs, or a gap in them.
    """
    if not curves or not all(curves) or any(math.isnan(x) for curve in curves for _, x in curve):
        return {}
    finals = [curve[-1][1] for curve in curves]
    wanted = THRESHOLD * finals[0]
    found: dict[str, float | None] = {
        "train.first": finals[0],
        "train.last": finals[-1],
        "train.slope": slope(finals),
        "train.drop": finals[-1] - finals[0],
        "train.ratio": trainability_ratio(finals),
        "train.steps.first": steps_to(curves[0], wanted),
        "train.steps.last": steps_to(curves[-1], wanted),
    }
    return {name: round(v, DECIMALS) for name, v in found.items() if v is not None}
