"""Expert capacity: how many tokens an expert takes of a batch. Letters: T tokens, K slots."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def check_capacity(capacity: float) -> None:
    """Refuse a capacity factor under which no expert could take a token."""
    if capacity <= 0:
        raise ValueError(f"capacity must be above 0, got {capacity}")


def places(factor: float, choices: int, experts: int) -> int:
    """``ceil(factor * choices / experts)``: tokens that each expert takes, at least one."""
    return max(1, math.ceil(factor * choices / experts))


def arrivals(selected_TK: Tensor) -> Tensor:
    """Of how many slots of the same expert each slot comes after, int64 [T, K].

    First slots of all tokens come before the second slots of any (GShard, arXiv 2006.16668,
    algorithm 1). Of unused slots it says nothing.
    """
    flat_S = selected_TK.t().reshape(-1)
    order_S = torch.argsort(flat_S, stable=True)
    sorted_S = flat_S[order_S]
    starts_S = torch.searchsorted(sorted_S, sorted_S)
    place_S = torch.empty_like(order_S)
    place_S[order_S] = torch.arange(len(order_S), device=flat_S.device) - starts_S
    return place_S.view(selected_TK.shape[1], -1).t()
