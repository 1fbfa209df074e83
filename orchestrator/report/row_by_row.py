"""Metrics of a matrix that grows, after each of its rows. Knows no model, run or tracker.

``metrics.summarise`` asks for the whole matrix and takes time with its size; asked after every row
of a long stream that is the cube of its stages. Here a row takes time that is linear in its length.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.report.metrics import DECIMALS, METRICS, slope


@dataclass(slots=True)
class _Mean:
    """Of terms that come one after another; those that are not a number are left out."""

    total: float = 0.0
    count: int = 0

    def add(self, terms: Iterable[float]) -> None:
        for term in terms:
            if not math.isnan(term):
                self.total += term
                self.count += 1

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


def _mean(terms: Iterable[float]) -> float | None:
    mean = _Mean()
    mean.add(terms)
    return mean.value


class RowByRow:
    """The metrics of ``metrics.METRICS`` after each row of a matrix; formulas are theirs.

    A matrix has as many columns as it will have rows.
    """

    def __init__(self, names: Iterable[str] = METRICS) -> None:
        """``names``: the metrics that are wanted."""
        self._names = frozenset(names)
        self.rows: list[Sequence[float]] = []
        """Those so far."""
        self._means: defaultdict[str, _Mean] = defaultdict(_Mean)
        """Of metrics whose terms stay what they are once their row has come."""
        self._learnt: list[float] = []
        """``R[j,j]``."""
        self._before: list[float] = []
        """``R[j-1,j]`` from the second task on."""
        self._worst: list[float] = []
        """Column -> least score in the rows after that of its task."""
        self._best: list[float] = []
        """Column -> greatest score from its task's row on."""
        self._ever: list[float] = []
        """Column -> greatest score in all rows."""

    def add(self, row: Sequence[float], initial: Sequence[float] = ()) -> dict[str, float]:
        """The metrics with one more row, by name; those that it does not define are left out.

        ``initial``: scores of the untrained model on all tasks; empty = not known.
        """
        k = len(self.rows)
        self._means["fwt.nobaseline"].add(self.rows[-1][k : k + 1] if k else ())
        self._before += self.rows[-1][k : k + 1] if k else ()
        earlier = [before[k] for before in self.rows]
        for name, terms in {
            "acc.incremental": [sum(row[: k + 1]) / (k + 1)],
            "acc.anytime_all": [*row[: k + 1], *earlier],
            "bwt.allpairs": [row[j] - self._learnt[j] for j in range(k)],
            "fwt.nobaseline_allpairs": earlier,
            "learning_accuracy": [row[k]],
        }.items():
            self._means[name].add(terms)
        prior = [self._ever[j] - row[j] for j in range(k)]
        self._worst = [_least(pair) for pair in zip(self._worst, row, strict=False)]
        self._best = [_most(pair) for pair in zip(self._best, row, strict=False)]
        self._ever = [_most(pair) for pair in zip(self._ever, row, strict=False)] or list(row)
        lost = [self._learnt[j] - row[j] for j in range(k)]
        worst = [*self._worst]
        self._worst.append(math.inf)
        self._best.append(row[k])
        self._learnt.append(row[k])
        self.rows.append(row)
        forgotten = _mean(lost)
        return self._told(
            {
                **{name: mean.value for name, mean in self._means.items()},
                "aaa": self._means["acc.incremental"].value,
                "acc.final": _mean([sum(row[: k + 1]) / (k + 1)]),
                "acc.min": _mean(worst),
                "acc.worst_case": _mean([*worst, row[k]]) if k else None,
                "plasticity.slope": slope(self._learnt),
                "bwt.gem": None if forgotten is None else -forgotten,
                "forgetting.first": forgotten,
                "forgetting.all": _mean([*lost, 0.0 * row[k]]) if k else None,
                "forgetting.max_prior": _mean(prior),
                "forgetting.max": _mean(self._best[j] - row[j] for j in range(k)),
                "fwt.gem": self._transfer(k, initial),
            }
        )

    def late(self, initial: Sequence[float]) -> list[dict[str, float]]:
        """For each row so far, what the untrained model's scores add, where they come after it."""
        return [self._told({"fwt.gem": self._transfer(k, initial)}) for k in range(len(self.rows))]

    def _transfer(self, k: int, initial: Sequence[float]) -> float | None:
        """``fwt.gem`` after row ``k``, counted from 0."""
        if len(initial) <= k:
            return None
        return _mean(self._before[j - 1] - initial[j] for j in range(1, k + 1))

    def _told(self, values: dict[str, float | None]) -> dict[str, float]:
        return {
            name: round(value, DECIMALS)
            for name, value in values.items()
            if value is not None and name in self._names
        }


def after_each(
    matrix: Iterable[Sequence[float]], names: Iterable[str] = METRICS
) -> list[dict[str, float]]:
    """Entry ``k`` is what ``summarise`` says of the leading block with ``k + 1`` rows, as far as
    that needs no untrained scores."""
    rows = RowByRow(names)
    return [rows.add(row) for row in matrix]


def _least(pair: tuple[float, float]) -> float:
    """Not a number where one of them is none."""
    return math.nan if math.isnan(pair[0]) or math.isnan(pair[1]) else min(pair)


def _most(pair: tuple[float, float]) -> float:
    return math.nan if math.isnan(pair[0]) or math.isnan(pair[1]) else max(pair)
