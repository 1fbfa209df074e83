"""``combine``: gather expert outputs back to their tokens and add them up, weighted.

Letters: T tokens, K slots a token, S rows, O outputs.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ops.permute import gather
from ops.registry import define, differentiable


def combine(rows_SO: Tensor, position_TK: Tensor, weights_TK: Tensor) -> Tensor:
    """``y[t] = sum_k weights[t, k] * rows[position[t, k]]``, always summed in slot order.

    ``position`` is the one ``permute`` gave (-1 = unused slot, adds nothing). Returns [T, O].
    """
    y_TO: Tensor = _OP(rows_SO, position_TK, weights_TK)
    return y_TO


def _reference(rows_SO: Tensor, position_TK: Tensor, weights_TK: Tensor) -> Tensor:
    y_TO = rows_SO.new_zeros((position_TK.shape[0], rows_SO.shape[1]))
    for position_T1, weight_T1 in zip(position_TK.split(1, 1), weights_TK.split(1, 1), strict=True):
        y_TO.addcmul_(gather(rows_SO, position_T1).squeeze(1), weight_T1)
    return y_TO


def _fake(rows_SO: Tensor, position_TK: Tensor, weights_TK: Tensor) -> Tensor:
    return rows_SO.new_empty((position_TK.shape[0], rows_SO.shape[1]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_TO: Tensor) -> tuple[Any, ...]:
    grad_rows, grad_weights = _BACKWARD(grad_TO, *ctx.saved_tensors)
    return grad_rows, None, grad_weights


def _backward_reference(
    grad_TO: Tensor, rows_SO: Tensor, position_TK: Tensor, weights_TK: Tensor
) -> tuple[Tensor, Tensor]:
    rows, width = rows_SO.shape
    grad_weights = (gather(rows_SO, position_TK) * grad_TO.unsqueeze(1)).sum(-1)
    slots_SO = (grad_TO.unsqueeze(1) * weights_TK.unsqueeze(-1)).reshape(-1, width)
    # unused slots all write to one extra row that is cut off, so every kept row is written once
    target_S = position_TK.reshape(-1).where(position_TK.reshape(-1) >= 0, rows)
    grad_rows = rows_SO.new_zeros((rows + 1, width)).index_copy(0, target_S, slots_SO)
    return grad_rows[:rows].contiguous(), grad_weights


def _backward_fake(
    grad_TO: Tensor, rows_SO: Tensor, position_TK: Tensor, weights_TK: Tensor
) -> tuple[Tensor, Tensor]:
    return rows_SO.new_empty(rows_SO.shape), weights_TK.new_empty(weights_TK.shape)


_OP = define(
    "combine", "(Tensor rows, Tensor position, Tensor weights) -> Tensor", _reference, _fake
)
_BACKWARD = define(
    "combine_backward",
    "(Tensor grad, Tensor rows, Tensor position, Tensor weights) -> (Tensor, Tensor)",
    _backward_reference,
    _backward_fake,
)
differentiable("combine", _backward, _setup_context)
