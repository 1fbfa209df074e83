"""Scores of a stream as named functions of the stored matrix R. Knows no model, run or tracker.

Notation of the docstrings: ``R[i,j]`` = score on task ``j`` after learning task ``i`` (1-based),
``b[j]`` = score on ``j`` of the untrained model, ``T`` = number of tasks. The field has several
incompatible formulas under the same word ("forgetting" has five), hence one name per formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import linear_regression

Matrix = Sequence[Sequence[float]]
"""Rows = stages in order, columns = tasks in order; square for a finished stream."""

Metric = Callable[[Matrix, Sequence[float]], "float | None"]
"""(square matrix, untrained scores or ()) -> the score; None where too little is known for it."""

DECIMALS = 12


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def slope(values: Sequence[float]) -> float | None:
    """Least-squares slope of values over 0, 1, 2, ...; None for fewer than two."""
    if len(values) < 2:
        return None
    return linear_regression(range(len(values)), values).slope


def acc_final(R: Matrix, b: Sequence[float] = ()) -> float | None:
    """``1/T sum_j R[T,j]``: average accuracy at the end (GEM, arXiv 1706.08840, ACC).

    Of environments, the average performance of Continual World (arXiv 2105.10919).
    """
    return _mean(R[-1]) if R else None


def acc_incremental(R: Matrix, b: Sequence[float] = ()) -> float | None:
    """``1/T sum_i 1/i sum_{j<=i} R[i,j]``: average incremental accuracy (arXiv 1611.07725)."""
    return _mean([sum(row[: i + 1]) / (i + 1) for i, row in enumerate(R)])


def acc_anytime_all(R: Matrix, b: Sequence[float] = ()) -> float | None:
    """``1/T^2 sum_{i,j} R[i,j]``: every task after every stage, learnt or not (as CapyMOA)."""
    return _mean([score for row in R for score in row])


def anytime(R: Matrix, b: Sequence[float] = ()) -> float | None:
    """``1/K sum_k A_k``, ``A_k`` = mean over tasks seen at evaluation ``k`` (arXiv 2003.05856).

    Evaluations are those at task ends, so it equals ``acc.incremental``; the step-wise convention
    of the same name does not.
    """
    return acc_incremental(R, b)


def learning_accuracy(R: Matrix, b: Sequence[float] = ()) -> float | None:
    """``1/T sum_j R[j,j]``: plasticity alone (arXiv 1810.11910, LA)."""
    return _mean([row[i] for i, row in enumerate(R)])


def plasticity_slope(R: Matrix, b: Sequence[float] = ()) -> float | None:
    """Least-squares slope of ``R[j,j]`` against ``j``: below 0 = later tasks are learnt worse."""
    return slope([row[i] for i, row in enumerate(R)])


def acc_min(R: Matrix, b: Sequence[float] = ()) -> float | None:
    """``1/(T-1) sum_{j<T} min_{i>j} R[i,j]``: worst case after learning (arXiv 2205.13452)."""
    return _mean([min(row[j] for row in R[j + 1 :]) for j in range(len(R) - 1)])


def acc_worst_case(R: Matrix, b: Sequence[float] = ()) -> float | None:
    """``1/T R[T,T] + (1 - 1/T) acc.min``: the last task as learnt, the others at their worst
    (arXiv 2205.13452, WC-ACC)."""
    least = acc_min(R)
    return None if least is None else R[-1][-1] / len(R) + (1 - 1 / len(R)) * least


def bwt_gem(R: Matrix, b: Sequence[float] = ()) -> float | None:
    """``1/(T-1) sum_{j<T} (R[T,j] - R[j,j])``: backward transfer (GEM, arXiv 1706.08840, BWT)."""
    return _mean([R[-1][j] - R[j][j] for j in range(len(R) - 1)])


def bwt_allpairs(R: Matrix, b: Sequence[float] = ()) -> float | None:
    """``2/(T(T-1)) sum_{i>j} (R[i,j] - R[j,j])``: over all later stages (arXiv 1810.13166)."""
    return _mean([R[i][j] - R[j][j] for i in range(len(R)) for j in range(i)])


def forgetting_first(R: Matrix, b: Sequence[float] = ()) -> float | None:
    """``1/(T-1) sum_{j<T} (R[j,j] - R[T,j])``: against the first score (as Avalanche)."""
    return _mean([R[j][j] - R[-1][j] for j in range(len(R) - 1)])


def forgetting_all(R: Matrix, b: Sequence[float] = ()) -> float | None:
    """``1/T sum_{j<=T} (R[j,j] - R[T,j])``: the last task counts, with 0 (Continual World,
    arXiv 2105.10919, F)."""
    return _mean([R[j][j] - R[-1][j] for j in range(len(R))]) if len(R) > 1 else None


def forgetting_max_prior(R: Matrix, b: Sequence[float] = ()) -> float | None:
    """``1/(T-1) sum_{j<T} (max_{i<T} R[i,j] - R[T,j])`` (arXiv 1801.10112, F; as Renate)."""
    return _mean([max(row[j] for row in R[:-1]) - R[-1][j] for j in range(len(R) - 1)])


def forgetting_max(R: Matrix, b: Sequence[float] = ()) -> float | None:
    """``1/(T-1) sum_{j<T} (max_{j<=i<=T} R[i,j] - R[T,j])``: never below 0 (as Mammoth, PyCIL)."""
    return _mean([max(row[j] for row in R[j:]) - R[-1][j] for j in range(len(R) - 1)])


def fwt_gem(R: Matrix, b: Sequence[float] = ()) -> float | None:
    """``1/(T-1) sum_{j>1} (R[j-1,j] - b[j])``: forward transfer (GEM, arXiv 1706.08840, FWT)."""
    if len(b) < len(R):
        return None
    return _mean([R[j - 1][j] - b[j] for j in range(1, len(R))])


def fwt_nobaseline(R: Matrix, b: Sequence[float] = ()) -> float | None:
    """``1/(T-1) sum_{j>1} R[j-1,j]``: zero-shot score just before learning (as Continuum)."""
    return _mean([R[j - 1][j] for j in range(1, len(R))])


def fwt_nobaseline_allpairs(R: Matrix, b: Sequence[float] = ()) -> float | None:
    """``2/(T(T-1)) sum_{i<j} R[i,j]``: zero-shot score at every earlier stage (as CapyMOA)."""
    return _mean([R[i][j] for j in range(len(R)) for i in range(j)])


METRICS: dict[str, Metric] = {
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
    rows = min(len(matrix), min((len(row) for row in matrix), default=0))
    block = [list(row[:rows]) for row in matrix[:rows]]
    scores = {name: METRICS[name](block, list(initial[:rows])) for name in names}
    return {name: round(score, DECIMALS) for name, score in scores.items() if score is not None}


COURSE = ("acc.final", "forgetting.max", "learning_accuracy")
"""Metrics of ``course``."""


def course(matrix: Matrix) -> list[dict[str, float]]:
    """Metrics of COURSE after every stage, as ``summarise`` has them, in one pass over the matrix.

    Entry ``k`` is that of the leading block with ``k + 1`` rows; forgetting begins with the second.
    """
    found: list[dict[str, float]] = []
    best: list[float] = []
    learnt = 0.0
    for k, row in enumerate(matrix):
        best = [max(before, score) for before, score in zip(best, row, strict=False)]
        best.append(row[k])
        learnt += row[k]
        here = {"acc.final": sum(row[: k + 1]) / (k + 1), "learning_accuracy": learnt / (k + 1)}
        if k:
            here["forgetting.max"] = sum(best[j] - row[j] for j in range(k)) / k
        found.append(here)
    return found
