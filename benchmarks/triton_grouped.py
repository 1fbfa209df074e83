"""A grouped matrix product in Triton with its gradient: a peer for the benchmark alone.

Tiles of rows find their expert on the device, so the host never waits. Imported only where there is
a GPU, as Triton comes with torch's CUDA builds alone.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _rows_kernel(
    x, weight, offsets, y, experts, depth, columns, by_expert, by_column, by_depth,
    precision: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    left = tl.program_id(0).to(tl.int64)
    expert = tl.full((), -1, tl.int64)
    begin = tl.full((), 0, tl.int64)
    end = tl.full((), 0, tl.int64)
    for e in range(0, experts):
        first, last = tl.load(offsets + e), tl.load(offsets + e + 1)
        tiles = (last - first + block_m - 1) // block_m
        here = (left >= 0) & (left < tiles)
        expert = tl.where(here, e, expert)
        begin = tl.where(here, first + left * block_m, begin)
        end = tl.where(here, last, end)
        left = tl.where(here, -1, left - tiles)
    if expert >= 0:
        row = begin + tl.arange(0, block_m)
        column = tl.program_id(1) * block_n + tl.arange(0, block_n)
        total = tl.zeros((block_m, block_n), tl.float32)
        start = weight + expert * by_expert
        for p in range(0, depth, block_k):
            at = p + tl.arange(0, block_k)
            inside = at < depth
            a = tl.load(
                x + row[:, None] * depth + at[None, :],
                mask=(row < end)[:, None] & inside[None, :],
                other=0.0,
            )
            b = tl.load(
                start + at[:, None] * by_depth + column[None, :] * by_column,
                mask=inside[:, None] & (column < columns)[None, :],
                other=0.0,
            )
            total = tl.dot(a, b, total, input_precision=precision)
        tl.store(
            y + row[:, None] * columns + column[None, :],
            total.to(y.dtype.element_ty),
            mask=(row < end)[:, None] & (column < columns)[None, :],
        )


@triton.jit
def _weight_kernel(
    grad, x, offsets, out, columns, depth,
    precision: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, block_r: tl.constexpr,
):  # fmt: skip
    expert = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block_n + tl.arange(0, block_n)
    at = tl.program_id(2) * block_k + tl.arange(0, block_k)
    first, last = tl.load(offsets + expert), tl.load(offsets + expert + 1)
    total = tl.zeros((block_n, block_k), tl.float32)
    for r in range(first, last, block_r):
        row = r + tl.arange(0, block_r)
        a = tl.load(
            grad + row[None, :] * columns + column[:, None],
            mask=(row < last)[None, :] & (column < columns)[:, None],
            other=0.0,
        )
        b = tl.load(
            x + row[:, None] * depth + at[None, :],
            mask=(row < last)[:, None] & (at < depth)[None, :],
            other=0.0,
        )
        total = tl.dot(a, b, total, input_precision=precision)
    tl.store(
        out + expert * columns * depth + column[:, None] * depth + at[None, :],
        total.to(out.dtype.element_ty),
        mask=(column < columns)[:, None] & (at < depth)[None, :],
    )


def _precision() -> str:
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"


def _rows(x_SK: Tensor, weight_ENK: Tensor, offsets: Tensor, block_m: int) -> Tensor:
    """``y[r] = weight[expert of r] x[r]``; ``weight`` may be any view."""
    experts, columns, depth = weight_ENK.shape
    y = x_SK.new_empty((len(x_SK), columns))
    grid = (triton.cdiv(len(x_SK), block_m) + experts, triton.cdiv(columns, 64))
    strides = weight_ENK.stride()
    _rows_kernel[grid](
        x_SK, weight_ENK, offsets, y, experts, depth, columns, *strides,
        precision=_precision(), block_m=block_m, block_n=64, block_k=32,
    )  # fmt: skip
    return y


class _Grouped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, offsets: Tensor, block_m: int) -> Tensor:
        ctx.save_for_backward(x, weight, offsets)
        ctx.block_m = block_m
        return _rows(x, weight, offsets, block_m)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight, offsets = ctx.saved_tensors
        grad = grad.contiguous()
        d_x = d_weight = None
        if ctx.needs_input_grad[0]:
            d_x = _rows(grad, weight.transpose(1, 2), offsets, ctx.block_m)
        if ctx.needs_input_grad[1]:
            experts, columns, depth = weight.shape
            d_weight = torch.empty_like(weight)
            grid = (experts, triton.cdiv(columns, 64), triton.cdiv(depth, 64))
            _weight_kernel[grid](
                grad, x, offsets, d_weight, columns, depth,
                precision=_precision(), block_n=64, block_k=64, block_r=32,
            )  # fmt: skip
        return d_x, d_weight, None, None


def grouped(x_SK: Tensor, weight_ENK: Tensor, offsets: Tensor, block_m: int = 64) -> Tensor:
    """Rows ``offsets[e]:offsets[e + 1]`` of ``x`` [S, K] times ``weight[e]`` [N, K] -> [S, N].

    ``offsets`` int64 [E + 1] on the device; all S rows belong to an expert. ``block_m`` is a power
    of two from 16 on. Contiguous ``x`` and ``weight``; float32, bfloat16 or float16.
    """
    assert x_SK.is_contiguous()
    assert weight_ENK.is_contiguous()
    y: Tensor = _Grouped.apply(x_SK, weight_ENK, offsets, block_m)
    return y
