"""Scores of a stream as named functions of the stored matrix R. Knows no model, run or tracker.

Notation of the docstrings: ``R[i,j]`` = score on task ``j`` after learning task ``i`` (1-based),
``b[j]`` = score on ``j`` of the untrained model, ``T`` = number of tasks. The field has several
incompatible formulas under the same word ("forgetting" has five), hence one name per formula.

Where not every model was scored on every task, R has holes: not a number. A metric is then the mean
over those of its terms all of whose scores are known; ``terms_of`` tells how many of how many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from statistics import linear_regression

Matrix = Sequence[Sequence[float]]
"""Rows = stages in order, columns = tasks in order; square for a finished stream."""

Metric = Callable[[Matrix, Sequence[float]], "float | None"]
"""(square matrix, untrained scores or ()) -> the score; None where too little is known for it."""

Terms = Callable[[Matrix, Sequence[float]], "list[float]"]
"""The same -> what the score is the mean of, not a number where a score in it is not known."""

DECIMALS = 12


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _mean(values: Iterable[float]) -> float | None:
    """Of those that are known."""
    found = _known(values)
    return sum(found) / len(found) if found else None


def _least(values: Sequence[float]) -> float:
    """Not a number where one of them is none."""
    return math.nan if any(map(math.isnan, values)) else min(values)


def _most(values: Sequence[float]) -> float:
    return math.nan if any(map(math.isnan, values)) else max(values)


def slope(values: Sequence[float]) -> float | None:
    """Least-squares slope of values over 0, 1, 2, ..., of those that are known; None for fewer than
    two."""
    known = [(place, value) for place, value in enumerate(values) if not math.isnan(value)]
    return linear_regression(*zip(*known, strict=True)).slope if len(known) > 1 else None


def acc_final(R: Matrix, b: Sequence[float]) -> list[float]:
    """``1/T sum_j R[T,j]``: average accuracy at the end (GEM, arXiv 1706.08840, ACC).

    Of environments, the average performance of Continual World (arXiv 2105.10919).
    """
    return [sum(R[-1]) / len(R[-1])] if R else []


def acc_incremental(R: Matrix, b: Sequence[float]) -> list[float]:
    """``1/T sum_i 1/i sum_{j<=i} R[i,j]``: average incremental accuracy (arXiv 1611.07725)."""
    return [sum(row[: i + 1]) / (i + 1) for i, row in enumerate(R)]


def acc_anytime_all(R: Matrix, b: Sequence[float]) -> list[float]:
    """``1/T^2 sum_{i,j} R[i,j]``: every task after every stage, learnt or not (as CapyMOA)."""
    return [score for row in R for score in row]


def anytime(R: Matrix, b: Sequence[float]) -> list[float]:
    """``1/K sum_k A_k``, ``A_k`` = mean over tasks seen at evaluation ``k`` (arXiv 2003.05856).

    Evaluations are those at task ends, so it equals ``acc.incremental``; the step-wise convention
    of the same name does not.
    """
    return acc_incremental(R, b)


def learning_accuracy(R: Matrix, b: Sequence[float]) -> list[float]:
    """``1/T sum_j R[j,j]``: plasticity alone (arXiv 1810.11910, LA)."""
    return [row[i] for i, row in enumerate(R)]


def plasticity_slope(R: Matrix, b: Sequence[float]) -> list[float]:
    """Least-squares slope of ``R[j,j]`` against ``j``: below 0 = later tasks are learnt worse."""
    return learning_accuracy(R, b)


def acc_min(R: Matrix, b: Sequence[float]) -> list[float]:
    """``1/(T-1) sum_{j<T} min_{i>j} R[i,j]``: worst case after learning (arXiv 2205.13452)."""
    return [_least([row[j] for row in R[j + 1 :]]) for j in range(len(R) - 1)]


def acc_worst_case(R: Matrix, b: Sequence[float]) -> list[float]:
    """``1/T R[T,T] + (1 - 1/T) acc.min``: the last task as learnt, the others at their worst
    (arXiv 2205.13452, WC-ACC)."""
    return [*acc_min(R, b), R[-1][-1]] if len(R) > 1 else []


def bwt_gem(R: Matrix, b: Sequence[float]) -> list[float]:
    """``1/(T-1) sum_{j<T} (R[T,j] - R[j,j])``: backward transfer (GEM, arXiv 1706.08840, BWT)."""
    return [R[-1][j] - R[j][j] for j in range(len(R) - 1)]


def bwt_allpairs(R: Matrix, b: Sequence[float]) -> list[float]:
    """``2/(T(T-1)) sum_{i>j} (R[i,j] - R[j,j])``: over all later stages (arXiv 1810.13166)."""
    return [R[i][j] - R[j][j] for i in range(len(R)) for j in range(i)]


def forgetting_first(R: Matrix, b: Sequence[float]) -> list[float]:
    """``1/(T-1) sum_{j<T} (R[j,j] - R[T,j])``: against the first score (as Avalanche)."""
    return [R[j][j] - R[-1][j] for j in range(len(R) - 1)]


def forgetting_all(R: Matrix, b: Sequence[float]) -> list[float]:
    """``1/T sum_{j<=T} (R[j,j] - R[T,j])``: the last task counts, with 0 (Continual World,
    arXiv 2105.10919, F)."""
    return [R[j][j] - R[-1][j] for j in range(len(R))] if len(R) > 1 else []


def forgetting_max_prior(R: Matrix, b: Sequence[float]) -> list[float]:
    """``1/(T-1) sum_{j<T} (max_{i<T} R[i,j] - R[T,j])`` (arXiv 1801.10112, F; as Renate)."""
    return [_most([row[j] for row in R[:-1]]) - R[-1][j] for j in range(len(R) - 1)]


def forgetting_max(R: Matrix, b: Sequence[float]) -> list[float]:
    """``1/(T-1) sum_{j<T} (max_{j<=i<=T} R[i,j] - R[T,j])``: never below 0 (as Mammoth, PyCIL)."""
    return [_most([row[j] for row in R[j:]]) - R[-1][j] for j in range(len(R) - 1)]


def fwt_gem(R: Matrix, b: Sequence[float]) -> list[float]:
    """``1/(T-1) sum_{j>1} (R[j-1,j] - b[j])``: forward transfer (GEM, arXiv 1706.08840, FWT)."""
    if len(b) < len(R):
        return []
    return [R[j - 1][j] - b[j] for j in range(1, len(R))]


def fwt_nobaseline(R: Matrix, b: Sequence[float]) -> list[float]:
    """``1/(T-1) sum_{j>1} R[j-1,j]``: zero-shot score just before learning (as Continuum)."""
    return [R[j - 1][j] for j in range(1, len(R))]


def fwt_nobaseline_allpairs(R: Matrix, b: Sequence[float]) -> list[float]:
    """``2/(T(T-1)) sum_{i<j} R[i,j]``: zero-shot score at every earlier stage (as CapyMOA)."""
    return [R[i][j] for j in range(len(R)) for i in range(j)]


TERMS: dict[str, Terms] = {
    "acc.final": acc_final,
    "acc.incremental": acc_incremental,
    "acc.anytime_all": acc_anytime_all,
    "acc.min": acc_min,
    "acc.worst_case": acc_worst_case,
    "aaa": anytime,
    "learning_accuracy": learning_accuracy,
    "plasticity.slope": plasticity_slope,
    "bwt.gem": bwt_gem,
    "bwt.allpairs": bwt_allpairs,
    "forgetting.first": forgetting_first,
    "forgetting.all": forgetting_all,
    "forgetting.max_prior": forgetting_max_prior,
    "forgetting.max": forgetting_max,
    "fwt.gem": fwt_gem,
    "fwt.nobaseline": fwt_nobaseline,
    "fwt.nobaseline_allpairs": fwt_nobaseline_allpairs,
}
"""What each metric is the mean of; ``plasticity.slope`` is the slope of its terms."""


def _metric(name: str, terms: Terms) -> Metric:
    summary = slope if name == "plasticity.slope" else _mean

    @wraps(terms)
    def score(R: Matrix, b: Sequence[float] = ()) -> float | None:
        return summary(terms(R, b))

    return score


METRICS: dict[str, Metric] = {name: _metric(name, terms) for name, terms in TERMS.items()}


ALONE = ("learning_accuracy", "plasticity.slope")
"""Metrics of ``R[j,j]`` only: those that mean something where each task is learnt alone."""


def summarise(
    matrix: Matrix, initial: Sequence[float] = (), names: Iterable[str] = METRICS
) -> dict[str, float]:
    """Every metric, or those of ``names``, of a finished or still growing matrix, by name.

    Rule for a matrix with ``T'`` of ``T`` rows: only its leading ``T' x T'`` block counts, as if
    the stream had ended after its ``T'``-th stage. A metric that is not defined there (forgetting
    after one stage, ``fwt.gem`` without untrained scores) is left out. Values are rounded to 12
    decimals, so that 0.3 reads 0.3.
    """
    block, b = _leading(matrix, initial)
    scores = {name: METRICS[name](block, b) for name in names}
    return {name: round(score, DECIMALS) for name, score in scores.items() if score is not None}


def terms_of(
    matrix: Matrix, initial: Sequence[float] = (), names: Iterable[str] = METRICS
) -> dict[str, tuple[int, int]]:
    """For each metric that a hole in the matrix takes terms from: (terms known, terms in all)."""
    block, b = _leading(matrix, initial)
    found = {}
    for name in names:
        terms = TERMS[name](block, b)
        known = len(_known(terms))
        if known < len(terms):
            found[name] = (known, len(terms))
    return found


def _leading(matrix: Matrix, initial: Sequence[float]) -> tuple[Matrix, Sequence[float]]:
    rows = min(len(matrix), min((len(row) for row in matrix), default=0))
    return [list(row[:rows]) for row in matrix[:rows]], list(initial[:rows])
