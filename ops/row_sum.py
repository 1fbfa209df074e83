"""``row_sum``: a linear map of compact observations, as a sum of rows of its weight.

The observation is mostly zeros and ones, so the product with a dense matrix is a sum of the rows
its ones pick; ``workers.compact_layout.Compact`` is the layout. Letters: B observations, W
entries of the short form, V ones and S scalars (D = V + S inputs), U usual places, J derived codes,
K slots, L outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ops.registry import define, differentiable


def row_sum(
    weight_DL: Tensor,
    bias_L: Tensor,
    short_BW: Tensor,
    usual_U: Tensor,
    derived_J2: Tensor,
    slots: int,
) -> Tensor:
    """``y = x W + b`` [B, L] for observations x given in the short form (int16).

    ``weight`` is the transposed weight of a linear layer: one row per input. Codes in the first
    ``slots`` entries: -1 nothing, below V that row, V + j the j-th derived pair (``p`` adds row
    p, ``~p`` takes it off). Rows ``usual`` are added to every observation. The rest of the short
    form are the bits of S float32 scalars, whose rows are the last S of the weight.
    """
    y_BL: Tensor = _OP(weight_DL, bias_L, short_BW, usual_U, derived_J2, slots)
    return y_BL


def _ones(inputs: int, short_BW: Tensor, slots: int) -> int:
    return inputs - (short_BW.shape[1] - slots) // 2


def _scalars(short_BW: Tensor, slots: int, like: Tensor) -> Tensor:
    bits_BW = short_BW[:, slots:]
    values = bits_BW.reshape(-1).view(torch.float32)
    return values.view(len(bits_BW), bits_BW.shape[1] // 2).to(like.dtype)


def _signed(table_DL: Tensor, places_N: Tensor) -> Tensor:
    """Row p for p, minus row p for ~p."""
    sign_N = torch.where(places_N >= 0, 1, -1).to(table_DL.dtype)
    return table_DL[torch.where(places_N >= 0, places_N, ~places_N)] * sign_N.unsqueeze(1)


def _reference(
    weight: Tensor, bias: Tensor, short: Tensor, usual: Tensor, derived: Tensor, slots: int
) -> Tensor:
    ones = _ones(weight.shape[0], short, slots)
    codes = short[:, :slots].long()
    pairs = _signed(weight, derived[:, 0]) + _signed(weight, derived[:, 1])
    table = torch.cat([weight[:ones], pairs, weight.new_zeros((1, weight.shape[1]))])
    nothing = len(table) - 1
    picked = functional.embedding_bag(
        codes.where(codes >= 0, nothing), table, mode="sum", padding_idx=nothing
    )
    start = bias + weight[usual].sum(0)
    return start + picked + _scalars(short, slots, weight) @ weight[ones:]


def _fake(
    weight: Tensor, bias: Tensor, short: Tensor, usual: Tensor, derived: Tensor, slots: int
) -> Tensor:
    return weight.new_empty((short.shape[0], weight.shape[1]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weight, _, short, usual, derived, slots = inputs
    ctx.save_for_backward(short, usual, derived)
    ctx.inputs, ctx.slots = weight.shape[0], slots


def _backward(ctx: Any, grad_BL: Tensor) -> tuple[Any, ...]:
    short, usual, derived = ctx.saved_tensors
    grad_weight, grad_bias = _BACKWARD(
        grad_BL.contiguous(), short, usual, derived, ctx.slots, ctx.inputs
    )
    return grad_weight, grad_bias, None, None, None, None


def _backward_reference(
    grad: Tensor, short: Tensor, usual: Tensor, derived: Tensor, slots: int, inputs: int
) -> tuple[Tensor, Tensor]:
    ones = _ones(inputs, short, slots)
    codes = short[:, :slots].long()
    sample, slot = torch.nonzero(codes >= 0, as_tuple=True)
    where = torch.stack([codes[sample, slot], sample])
    size = (ones + len(derived), len(grad))
    picks = torch.sparse_coo_tensor(where, grad.new_ones(len(sample)), size, check_invariants=False)
    table = torch.sparse.mm(picks, grad)
    bottom = _scalars(short, slots, grad).t() @ grad
    total = grad.sum(0)
    weight = torch.cat([table[:ones], bottom])
    weight.index_add_(0, usual, total.expand(len(usual), -1))
    for places in derived.unbind(1):
        sign = torch.where(places >= 0, 1, -1).to(grad.dtype).unsqueeze(1)
        weight.index_add_(0, torch.where(places >= 0, places, ~places), table[ones:] * sign)
    return weight, total


def _backward_fake(
    grad: Tensor, short: Tensor, usual: Tensor, derived: Tensor, slots: int, inputs: int
) -> tuple[Tensor, Tensor]:
    return grad.new_empty((inputs, grad.shape[1])), grad.new_empty(grad.shape[1])


_OP = define(
    "row_sum",
    "(Tensor weight, Tensor bias, Tensor short, Tensor usual, Tensor derived, int slots) -> Tensor",
    _reference,
    _fake,
)
_BACKWARD = define(
    "row_sum_backward",
    "(Tensor grad, Tensor short, Tensor usual, Tensor derived, int slots, int inputs)"
    " -> (Tensor, Tensor)",
    _backward_reference,
    _backward_fake,
)
differentiable("row_sum", _backward, _setup_context)
