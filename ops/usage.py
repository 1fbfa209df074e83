"""``usage``: how often each expert was chosen for tokens of each domain."""

from __future__ import annotations

import torch
from torch import Tensor

from ops.registry import define


def usage(selected_TK: Tensor, domain_T: Tensor, experts: int, domains: int) -> Tensor:
    """Counts int64 ``[experts, domains]``; unused slots (-1) are not counted.

    ``selected`` int64 [T, K] as given by ``route``; ``domain`` int64 [T] in ``0..domains-1``.
    """
    counts: Tensor = _OP(selected_TK, domain_T, experts, domains)
    return counts


def _reference(selected_TK: Tensor, domain_T: Tensor, experts: int, domains: int) -> Tensor:
    cell_TK = selected_TK * domains + domain_T.unsqueeze(1)
    cell_S = torch.where(selected_TK < 0, experts * domains, cell_TK).reshape(-1)
    counts = torch.zeros(experts * domains + 1, dtype=torch.int64, device=selected_TK.device)
    counts.scatter_add_(0, cell_S, torch.ones_like(cell_S))
    return counts[:-1].reshape(experts, domains).clone()


def _fake(selected_TK: Tensor, domain_T: Tensor, experts: int, domains: int) -> Tensor:
    return selected_TK.new_empty((experts, domains))


_OP = define(
    "usage",
    "(Tensor selected, Tensor domain, int experts, int domains) -> Tensor",
    _reference,
    _fake,
)
