"""How much experts are used where: shares of tokens, contrasts, and association with events.

Letters: T tokens, E experts, V events.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from workers.diagnostics.base import Gates

if TYPE_CHECKING:
    from torch import Tensor


def used(gates: Gates) -> Tensor:
    """Whether each expert is used by each token, bool [T, E]: whether it was chosen; where every
    expert runs for every token, whether its weight is the largest."""
    chosen_TE = gates.chosen
    if len(chosen_TE) and bool(chosen_TE.all()):
        largest_T1 = gates.weights.argmax(-1, keepdim=True)
        return chosen_TE.new_zeros(chosen_TE.shape).scatter_(1, largest_T1, True)
    return chosen_TE


def share(gates: Gates) -> list[float]:
    """Share of the tokens that use each expert [E]."""
    found: list[float] = used(gates).double().mean(0).tolist()
    return found


def contrast(one: Sequence[Gates], others: Sequence[Gates]) -> list[float]:
    """``a_e(A) - a_e(B)`` [E]: share of A's tokens that use an expert, less the share of B's.

    A and B: gates of one layer on several parts, which count alike. MoTE (arXiv 2502.11096).
    """
    means = [_mean([share(gates) for gates in side]) for side in (one, others)]
    return [a - b for a, b in zip(*means, strict=True)]


def npmi(both: int, expert: int, event: int, tokens: int) -> float:
    """``ln[p(e, t) / (p(e) p(t))] / -ln p(e, t)`` of counts, -1 (never together) to 1 (always).

    0 where an expert or an event never occurs, which says nothing; 1 where both always do. RICE
    (arXiv 2505.14681).
    """
    if not expert or not event:
        return 0.0
    if not both:
        return -1.0
    if both == tokens:
        return 1.0
    p = both / tokens
    return math.log(p * tokens * tokens / (expert * event)) / -math.log(p)


def npmi_of(used_TE: Tensor, event_T: Tensor) -> list[float]:
    """nPMI of each expert [E] with an event, bool [T]."""
    together = (used_TE & event_T.unsqueeze(1)).sum(0).tolist()
    alone = used_TE.sum(0).tolist()
    events, tokens = int(event_T.sum()), len(event_T)
    return [npmi(both, own, events, tokens) for both, own in zip(together, alone, strict=True)]


def _mean(rows: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]
