"""Arithmetic of routing on tables of numbers, shared by workers and the driver. Pure Python.

A table has one row per domain and one column per expert; E experts, D domains, T tokens. Natural
logarithms throughout; shares of an entropy have no unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

Table = Sequence[Sequence[float]]


def entropy(shares: Iterable[float]) -> float:
    """``-sum p ln p`` in nats of shares that sum to 1."""
    return -sum(p * math.log(p) for p in shares if p > 0)


def load_cv(load: Sequence[float]) -> float:
    """``std_e(f_e) / mean_e(f_e)`` of the experts' load f [E] (any scale); 0 = balanced."""
    mean = sum(load) / len(load)
    if mean == 0:
        return 0.0
    return math.sqrt(sum((x - mean) ** 2 for x in load) / len(load)) / mean


def load_peak(load: Sequence[float]) -> float:
    """``max_e f_e / mean_e f_e``: 1 = balanced, E = one expert gets everything; 0 without load."""
    mean = sum(load) / len(load)
    return max(load) / mean if mean else 0.0


def dead_experts(load: Sequence[float]) -> int:
    """Number of experts with less than ``0.01 / E`` of the load; all of them without load."""
    total = sum(load)
    return sum(1 for x in load if total == 0 or x / total < 0.01 / len(load))


def specialisation(table: Table) -> float:
    """``I(D;E) / H(D)`` of a table of masses [D][E]: 1 = the expert tells the domain, 0 = nothing.

    Rows without mass count as absent; fewer than two others give 0.
    """
    total = sum(map(sum, table))
    rows = [sum(row) / total for row in table if sum(row)]
    if total == 0 or len(rows) < 2:
        return 0.0
    joint = entropy(x / total for row in table for x in row)
    columns = entropy(sum(column) / total for column in zip(*table, strict=True))
    return (entropy(rows) + columns - joint) / entropy(rows)


def jaccard(one: Sequence[float], other: Sequence[float]) -> float:
    """``|S and S'| / |S or S'|`` of two rows of a 0/1 mask; 0 for two empty ones."""
    union = sum(1 for a, b in zip(one, other, strict=True) if a or b)
    return sum(1 for a, b in zip(one, other, strict=True) if a and b) / union if union else 0.0


def weighted_jaccard(one: Sequence[float], other: Sequence[float]) -> float:
    """``sum_e min(A, A') / sum_e max(A, A')`` of two rows of shares; 0 for two empty ones."""
    largest = sum(max(a, b) for a, b in zip(one, other, strict=True))
    return sum(min(a, b) for a, b in zip(one, other, strict=True)) / largest if largest else 0.0


def mean_pairs(table: Table, measure: Callable[[Sequence[float], Sequence[float]], float]) -> float:
    """Mean of a measure over pairs of rows; 0 for a single row."""
    pairs = [measure(a, b) for a, b in combinations(table, 2)]
    return sum(pairs) / len(pairs) if pairs else 0.0


def drift(then: Table, now: Table) -> tuple[float, float, float]:
    """(drift, flips, newcomers) of the gate weights [T][E] on the same tokens at two moments.

    Drift: mean Jensen-Shannon divergence as a share of ln 2, experts born in between having had
    weight 0; flips: share of tokens whose largest weight moved to another expert; newcomers: mean
    weight of the experts born in between.
    """
    divergences, flips, mass = [], 0, 0.0
    for before, after in zip(then, now, strict=True):
        old = [*before, *[0.0] * (len(after) - len(before))]
        middle = [(a + b) / 2 for a, b in zip(old, after, strict=True)]
        divergence = entropy(middle) - (entropy(old) + entropy(after)) / 2
        divergences.append(max(0.0, divergence) / math.log(2))
        flips += old.index(max(old)) != list(after).index(max(after))
        mass += sum(after[len(before) :])
    count = len(divergences)
    return sum(divergences) / count, flips / count, mass / count


def age_share(weights: Sequence[float], births: Sequence[int]) -> dict[int, float]:
    """Stage -> summed gate weight of the experts born in it (-1 = there from the start)."""
    shares: dict[int, float] = {}
    for weight, stage in zip(weights, births, strict=False):
        shares[stage] = shares.get(stage, 0.0) + weight
    return shares
