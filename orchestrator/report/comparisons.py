"""Scores of a lane against its baselines, as named functions. Knows no model, run or tracker.

Notation as in ``report.metrics``; ``S``, ``J``, ``F``: what the baselines ``scratch``, ``joint``
and ``finetune`` came to; ``AUC_j``: mean over a stage's intervals of the score in training, 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.report.metrics import DECIMALS, METRICS, Matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a lane came to, or its leading ``T' x T'`` block."""

    matrix: Matrix
    """The leading rows of R without a gap."""
    curves: Sequence[Sequence[float]] = ()
    """Of each stage, the score in training after each of its intervals."""

    def upto(self, stages: int) -> Outcome:
        """As if the stream had ended after so many stages."""
        block = [list(row[:stages]) for row in self.matrix[:stages]]
        return Outcome(matrix=block, curves=self.curves[:stages])


def intransigence(own: Outcome, joint: Outcome) -> float | None:
    """``1/T sum_j (J[j,j] - R[j,j])``: a task against joint training up to it (1801.10112)."""
    return _mean(j - r for j, r in _diagonals(joint, own))


def fwt_scratch(own: Outcome, scratch: Outcome) -> float | None:
    """``1/(T-1) sum_{j>1} (R[j,j] - S[j,j])``: what a task gains by those before it (survey
    2302.00487, equation 5)."""
    return _mean([r - s for r, s in _diagonals(own, scratch)][1:])


def fwt_auc(own: Outcome, scratch: Outcome) -> float | None:
    """``1/T sum_j (AUC_j - AUC_j^S) / (1 - AUC_j^S)``: area between the curves of learning a task
    in the stream and alone (Continual World, arXiv 2105.10919).

    None where a curve is missing or has a gap (no episode ended in an interval), where both have
    not the same intervals, or where the task alone is at 1 throughout.
    """
    found = []
    for ours, alone in zip(own.curves, scratch.curves, strict=True):
        if len(ours) != len(alone) or not alone or not all(x == x for x in (*ours, *alone)):
            return None
        area, reference = sum(ours) / len(ours), sum(alone) / len(alone)
        if reference == 1.0:
            return None
        found.append((area - reference) / (1.0 - reference))
    return _mean(found) if len(found) == len(own.matrix) else None


def forgetting_reduction(own: Outcome, finetune: Outcome) -> float | None:
    """``1 - forgetting.max_prior(R) / forgetting.max_prior(F)``: share of the forgetting of
    fine-tuning that the lane avoids; None where fine-tuning forgets nothing."""
    forgetting = METRICS["forgetting.max_prior"]
    ours, theirs = forgetting(own.matrix, ()), forgetting(finetune.matrix, ())
    if ours is None or theirs is None or theirs <= 0.0:
        return None
    return 1.0 - ours / theirs


Comparison = Callable[[Outcome, Outcome], "float | None"]
"""(the lane's, its baseline's outcome after as many stages) -> the score; None where too little is
known for it."""

COMPARISONS: dict[str, tuple[str, Comparison]] = {
    "intransigence": ("joint", intransigence),
    "fwt.scratch": ("scratch", fwt_scratch),
    "fwt.auc": ("scratch", fwt_auc),
    "forgetting.reduction": ("finetune", forgetting_reduction),
}
"""Name -> the baseline that it needs, and the comparison."""


def compare(own: Outcome, baselines: Mapping[str, Outcome]) -> dict[str, float]:
    """Every comparison with the baselines at hand, after as many stages as lane and baseline have
    rows of R; one that is not defined there is left out."""
    found: dict[str, float] = {}
    for name, (kind, comparison) in COMPARISONS.items():
        if kind not in baselines:
            continue
        stages = min(len(own.matrix), len(baselines[kind].matrix))
        if stages:
            score = comparison(own.upto(stages), baselines[kind].upto(stages))
            found |= {} if score is None else {name: round(score, DECIMALS)}
    return found


def _diagonals(one: Outcome, other: Outcome) -> list[tuple[float, float]]:
    """Scores on each task right after it was learnt, of both."""
    pairs = zip(one.matrix, other.matrix, strict=True)
    return [(row[j], beside[j]) for j, (row, beside) in enumerate(pairs)]


def _mean(values: Iterable[float]) -> float | None:
    """Of those that are known, as in ``report.metrics``."""
    found = [value for value in values if value == value]
    return sum(found) / len(found) if found else None
