"""Matrices of domains and experts: what a domain's tokens chose, and which experts it may train.

A matrix is a list of rows, domain by domain, each with a number for every expert of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations

Matrix = list[list[float]]
Rows = list[list[int]]


def running(
    before: Sequence[float], counts: Sequence[int], tokens: int, momentum: float
) -> list[float]:
    """``A <- alpha A + (1 - alpha) A_hat`` for one domain; its first counts as found.

    DES-MoE (arXiv 2509.16882), equation 9. Without tokens the row stays as it was.
    """
    if tokens == 0:
        return list(before)
    found = [count / tokens for count in counts]
    if not any(before):
        return found
    return [momentum * a + (1 - momentum) * b for a, b in zip(before, found, strict=True)]


def masked(matrix: Matrix, threshold: float) -> Rows:
    """``M[d,e] = 1`` where ``A[d,e] >= phi max_e A[d,e]`` (equation 6); 1 where A is unknown."""
    return [[int(a >= threshold * max(row)) for a in row] for row in matrix]


def row_entropy(matrix: Matrix) -> float:
    """Mean entropy of the rows as distributions, as a share of the largest possible, 0 to 1."""
    rows = [row for row in matrix if any(row)]
    if not rows or len(rows[0]) < 2:
        return 0.0
    entropies = []
    for row in rows:
        shares = [a / sum(row) for a in row if a > 0]
        entropies.append(-sum(p * math.log(p) for p in shares) / math.log(len(row)))
    return sum(entropies) / len(entropies)


def mean_overlap(layers: Iterable[Rows]) -> float:
    """Mean Jaccard overlap over pairs of domains, then over layers; 0 for a single domain."""
    overlaps = []
    for rows in layers:
        pairs = [_jaccard(one, other) for one, other in combinations(rows, 2)]
        overlaps.append(sum(pairs) / len(pairs) if pairs else 0.0)
    return sum(overlaps) / len(overlaps) if overlaps else 0.0


def _jaccard(one: Sequence[int], other: Sequence[int]) -> float:
    union = sum(1 for a, b in zip(one, other, strict=True) if a or b)
    return sum(1 for a, b in zip(one, other, strict=True) if a and b) / union if union else 0.0
