"""``permute``: copy token rows into expert order, so that each expert's rows lie together.

Letters: T tokens, K slots a token, S rows, D features, E experts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ops.registry import check_slots, define, differentiable


def permute(
    x_TD: Tensor, selected_TK: Tensor, experts: int, rows: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Sort slots by expert (stable, so deterministic) and gather their token rows.

    ``selected`` int64 [T, K] holds expert numbers, -1 for an unused slot. ``rows``: S, at least as
    many as slots are used (the caller must know: only the CPU kernel looks); None = T*K. Returns
    ``rows`` [S, D], ``position`` int64 [T, K] (row of each slot, -1 = unused) and ``offsets`` int64
    [E + 1] (rows of expert e are ``offsets[e]:offsets[e + 1]``; rows past the last offset mean
    nothing). More than 2^31 - 1 slots are refused.
    """
    check_slots(*selected_TK.shape)
    room = selected_TK.numel() if rows is None else rows
    rows_SD, position_TK, offsets = _OP(x_TD, selected_TK, experts, room)
    return rows_SD, position_TK, offsets


def gather(rows_SD: Tensor, position_TK: Tensor) -> Tensor:
    """``[T, K, D]``: the row of each slot, zeros where the slot is unused."""
    tokens, slots = position_TK.shape
    found = rows_SD.index_select(0, position_TK.clamp(min=0).reshape(-1))
    found = found.view(tokens, slots, rows_SD.shape[1])
    return found.masked_fill_(position_TK.unsqueeze(-1) < 0, 0.0)


def _reference(
    x_TD: Tensor, selected_TK: Tensor, experts: int, rows: int
) -> tuple[Tensor, Tensor, Tensor]:
    slots = selected_TK.shape[1]
    key_S = torch.where(selected_TK < 0, experts, selected_TK).reshape(-1)
    order_S = torch.argsort(key_S, stable=True)
    position_S = torch.empty_like(order_S)
    position_S[order_S] = torch.arange(len(order_S), device=x_TD.device)
    counts = torch.zeros(experts + 2, dtype=torch.int64, device=x_TD.device)
    counts.scatter_add_(0, key_S + 1, torch.ones_like(key_S))
    offsets = counts.cumsum(0)[: experts + 1].clone()
    position_TK = torch.where(selected_TK < 0, -1, position_S.view(selected_TK.shape))
    return x_TD.index_select(0, order_S[:rows] // slots), position_TK, offsets


def _fake(
    x_TD: Tensor, selected_TK: Tensor, experts: int, rows: int
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        x_TD.new_empty((rows, x_TD.shape[1])),
        selected_TK.new_empty(selected_TK.shape),
        selected_TK.new_empty((experts + 1,)),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, grad_SD: Tensor | None, _position: Any, _offsets: Any) -> tuple[Any, ...]:
    if grad_SD is None:
        return None, None, None, None
    (position_TK,) = ctx.saved_tensors
    return _BACKWARD(grad_SD, position_TK), None, None, None


def _backward_reference(grad_SD: Tensor, position_TK: Tensor) -> Tensor:
    return gather(grad_SD, position_TK).sum(1)


def _backward_fake(grad_SD: Tensor, position_TK: Tensor) -> Tensor:
    return grad_SD.new_empty((position_TK.shape[0], grad_SD.shape[1]))


_OP = define(
    "permute",
    "(Tensor x, Tensor selected, int experts, int rows)"
    " -> (Tensor rows, Tensor position, Tensor offsets)",
    _reference,
    _fake,
)
_BACKWARD = define(
    "permute_backward",
    "(Tensor grad, Tensor position) -> Tensor",
    _backward_reference,
    _backward_fake,
)
differentiable("permute", _backward, _setup_context)
