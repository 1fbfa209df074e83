"""Matrices of domains and experts: what a domain's tokens chose, and which experts it may train.

A matrix is a list of rows, domain by domain, each with a number for every expert of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from workers.diagnostics.tables import entropy, jaccard, mean_pairs

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
    shares = [entropy(a / sum(row) for a in row) / math.log(len(row)) for row in rows]
    return sum(shares) / len(shares)


def mean_overlap(layers: Iterable[Rows]) -> float:
    """Mean Jaccard overlap over pairs of domains, then over layers; 0 for a single domain."""
    overlaps = [mean_pairs(rows, jaccard) for rows in layers]
    return sum(overlaps) / len(overlaps) if overlaps else 0.0
