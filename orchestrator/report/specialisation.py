"""How specialised a stage's experts are: pure measures of counts, masks, gates and births.

Knows no journal and no tracker. A table has one row per domain and one column per expert.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations

Table = Sequence[Sequence[float]]


def load_cv(load: Sequence[float]) -> float:
    """Standard deviation over mean of the experts' shares; 0 = balanced."""
    mean = sum(load) / len(load)
    if mean == 0:
        return 0.0
    return math.sqrt(sum((x - mean) ** 2 for x in load) / len(load)) / mean


def dead(load: Sequence[float]) -> int:
    """Experts that get less than 0.01 / E of the load."""
    total = sum(load)
    return sum(1 for x in load if total == 0 or x / total < 0.01 / len(load))


def specialisation(table: Table) -> float:
    """``I(D;E) / H(D)``: 1 = the expert tells the domain, 0 = it tells nothing."""
    total = sum(map(sum, table))
    rows = [sum(row) / total for row in table if sum(row)]
    if total == 0 or len(rows) < 2:
        return 0.0
    joint = _entropy(x / total for row in table for x in row)
    columns = _entropy(sum(column) / total for column in zip(*table, strict=True))
    return (_entropy(rows) + columns - joint) / _entropy(rows)


def jaccard(one: Sequence[float], other: Sequence[float]) -> float:
    """``|S and S'| / |S or S'|`` of two rows of a mask."""
    union = sum(1 for a, b in zip(one, other, strict=True) if a or b)
    return sum(1 for a, b in zip(one, other, strict=True) if a and b) / union if union else 0.0


def weighted(one: Sequence[float], other: Sequence[float]) -> float:
    """``sum_e min(A, A') / sum_e max(A, A')`` of two rows of a usage matrix."""
    largest = sum(max(a, b) for a, b in zip(one, other, strict=True))
    return sum(min(a, b) for a, b in zip(one, other, strict=True)) / largest if largest else 0.0


def mean_pairs(table: Table, measure: Callable[[Sequence[float], Sequence[float]], float]) -> float:
    """Mean of a measure over pairs of rows; 0 for a single row."""
    pairs = [measure(a, b) for a, b in combinations(table, 2)]
    return sum(pairs) / len(pairs) if pairs else 0.0


def drift(then: Table, now: Table) -> tuple[float, float, float]:
    """(drift, flips, newcomers) of the gates on fixed samples between two moments.

    Drift: mean Jensen-Shannon divergence, as a share of ln 2; flips: share of samples whose first
    choice changed; newcomers: mean gate weight of experts that were not there then.
    """
    divergences, flips, mass = [], 0, 0.0
    for before, after in zip(then, now, strict=True):
        old = [*before, *[0.0] * (len(after) - len(before))]
        middle = [(a + b) / 2 for a, b in zip(old, after, strict=True)]
        divergence = _entropy(middle) - (_entropy(old) + _entropy(after)) / 2
        divergences.append(max(0.0, divergence) / math.log(2))
        flips += old.index(max(old)) != list(after).index(max(after))
        mass += sum(after[len(before) :])
    count = len(divergences)
    return sum(divergences) / count, flips / count, mass / count


def age_share(usage: Sequence[float], births: Sequence[int]) -> dict[int, float]:
    """Stage -> gate weight of the experts born in it (-1 = there from the start)."""
    shares: dict[int, float] = {}
    for weight, stage in zip(usage, births, strict=False):
        shares[stage] = shares.get(stage, 0.0) + weight
    return shares


def of_counts(counts: Mapping[str, Mapping[str, Sequence[int]]]) -> dict[str, float]:
    """Load, dead experts and specialisation of each layer, from a stage's counts."""
    figures: dict[str, float] = {}
    for layer, rows in counts.items():
        width = max(map(len, rows.values()))
        table = [[*row, *[0] * (width - len(row))] for row in rows.values()]
        load = [sum(column) for column in zip(*table, strict=True)]
        figures[f"{layer}/load_cv"] = load_cv(load)
        figures[f"{layer}/dead"] = float(dead(load))
        figures[f"{layer}/specialisation"] = specialisation(table)
    return figures


def of_mask(
    masks: Mapping[str, Table], usage: Mapping[str, Table], domains: Sequence[str]
) -> dict[str, float]:
    """Overlap of the domains that were counted, by mask (Jaccard) and by usage (weighted)."""
    figures: dict[str, float] = {}
    for layer, rows in masks.items():
        matrix = usage.get(layer, rows)
        counted = [number for number in range(len(domains)) if any(matrix[number])]
        mask = [rows[number] for number in counted]
        figures[f"{layer}/overlap_jaccard"] = mean_pairs(mask, jaccard)
        shares = [matrix[number] for number in counted]
        figures[f"{layer}/overlap_weighted"] = mean_pairs(shares, weighted)
    return figures


def _entropy(shares: Iterable[float]) -> float:
    return -sum(p * math.log(p) for p in shares if p > 0)
