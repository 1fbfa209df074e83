"""``expert_mlp``: each expert's layer(s) on its own rows; widths may differ between experts.

Letters: S rows, E experts, D inputs, H hidden (H_e of expert e), O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ops.registry import define, differentiable


def expert_mlp(
    rows_SD: Tensor,
    offsets: Tensor,
    up: Sequence[Tensor],
    up_bias: Sequence[Tensor],
    down: Sequence[Tensor] = (),
    down_bias: Sequence[Tensor] = (),
) -> Tensor:
    """``down_e relu(up_e x + up_bias_e) + down_bias_e`` on rows ``offsets[e]:offsets[e + 1]``.

    ``up`` holds E tensors [H_e, D], ``down`` E tensors [O, H_e]. Empty ``down`` = linear experts
    (``up_e x + up_bias_e``, no activation; all H_e are O). Rows past the last offset become 0.
    Returns [S, O]. Gradients of experts that need none are not computed.
    """
    y_SO: Tensor
    y_SO, _ = _OP(rows_SD, offsets, list(up), list(up_bias), list(down), list(down_bias))
    return y_SO


def _output_width(up: Sequence[Tensor], down: Sequence[Tensor]) -> int:
    return (down or up)[0].shape[0]


def _hidden_width(up: Sequence[Tensor], down: Sequence[Tensor]) -> int:
    return max(u.shape[0] for u in up) if down else 0


def _reference(
    rows_SD: Tensor,
    offsets: Tensor,
    up: list[Tensor],
    up_bias: list[Tensor],
    down: list[Tensor],
    down_bias: list[Tensor],
) -> tuple[Tensor, Tensor]:
    y_SO = rows_SD.new_zeros((rows_SD.shape[0], _output_width(up, down)))
    hidden_SH = rows_SD.new_zeros((rows_SD.shape[0], _hidden_width(up, down)))
    bounds = offsets.tolist()
    for e, (start, stop) in enumerate(pairwise(bounds)):
        if start == stop:
            continue
        inner = torch.addmm(up_bias[e], rows_SD[start:stop], up[e].t())
        if down:
            inner.relu_()
            hidden_SH[start:stop, : inner.shape[1]] = inner
            inner = torch.addmm(down_bias[e], inner, down[e].t())
        y_SO[start:stop] = inner
    return y_SO, hidden_SH


def _fake(
    rows_SD: Tensor,
    offsets: Tensor,
    up: list[Tensor],
    up_bias: list[Tensor],
    down: list[Tensor],
    down_bias: list[Tensor],
) -> tuple[Tensor, Tensor]:
    rows = rows_SD.shape[0]
    return (
        rows_SD.new_empty((rows, _output_width(up, down))),
        rows_SD.new_empty((rows, _hidden_width(up, down))),
    )


def _backward_reference(
    grad_SO: Tensor,
    rows_SD: Tensor,
    hidden_SH: Tensor,
    offsets: Tensor,
    up: list[Tensor],
    down: list[Tensor],
    trainable: list[bool],
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    grad_rows = torch.zeros_like(rows_SD, memory_format=torch.contiguous_format)
    d_up, d_up_bias, d_down, d_down_bias = _empty_gradients(grad_SO, up, down, trainable)
    bounds = offsets.tolist()
    for e, (start, stop) in enumerate(pairwise(bounds)):
        if start == stop:
            continue
        grad = grad_SO[start:stop]
        if down:
            inner = hidden_SH[start:stop, : up[e].shape[0]]
            if trainable[e]:
                torch.mm(grad.t(), inner, out=d_down[e])
                torch.sum(grad, 0, out=d_down_bias[e])
            grad = torch.ops.aten.threshold_backward(grad @ down[e], inner, 0)
        if trainable[e]:
            torch.mm(grad.t(), rows_SD[start:stop], out=d_up[e])
            torch.sum(grad, 0, out=d_up_bias[e])
        torch.mm(grad, up[e], out=grad_rows[start:stop])
    return grad_rows, d_up, d_up_bias, d_down, d_down_bias


def _empty_gradients(
    grad_SO: Tensor, up: list[Tensor], down: list[Tensor], trainable: list[bool]
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Zero gradients for each weight and bias; zero-sized ones where nothing is trained."""
    gradients = []
    for weights in (up, down):
        flags = trainable[: len(weights)]
        shapes = [w.shape if kept else (0, 0) for w, kept in zip(weights, flags, strict=True)]
        gradients.append([grad_SO.new_zeros(shape) for shape in shapes])
        gradients.append([grad_SO.new_zeros(shape[:1]) for shape in shapes])
    return tuple(gradients)  # type: ignore[return-value]


def _backward_fake(
    grad_SO: Tensor,
    rows_SD: Tensor,
    hidden_SH: Tensor,
    offsets: Tensor,
    up: list[Tensor],
    down: list[Tensor],
    trainable: list[bool],
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    grad_rows = rows_SD.new_empty(rows_SD.shape)
    return grad_rows, *_empty_gradients(grad_SO, up, down, trainable)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    rows_SD, offsets, up, _, down, _ = inputs
    ctx.experts, ctx.two_layers = len(up), bool(down)
    ctx.save_for_backward(rows_SD, output[1], offsets, *up, *down)


def _backward(ctx: Any, grad_SO: Tensor, _hidden: Any) -> tuple[Any, ...]:
    rows_SD, hidden_SH, offsets, *weights = ctx.saved_tensors
    up, down = weights[: ctx.experts], weights[ctx.experts :]
    wanted = list(zip(*[flags for flags in ctx.needs_input_grad[2:] if flags], strict=True))
    trainable = [any(flags) for flags in wanted]
    grad_rows, *gradients = _BACKWARD(
        grad_SO.contiguous(), rows_SD, hidden_SH, offsets, up, down, trainable
    )
    lists = [
        [g if wanted else None for g, wanted in zip(group, trainable, strict=False)]
        for group in gradients
    ]
    return grad_rows, None, *lists


_OP = define(
    "expert_mlp",
    "(Tensor rows, Tensor offsets, Tensor[] up, Tensor[] up_bias, Tensor[] down,"
    " Tensor[] down_bias) -> (Tensor y, Tensor hidden)",
    _reference,
    _fake,
)
_BACKWARD = define(
    "expert_mlp_backward",
    "(Tensor grad, Tensor rows, Tensor hidden, Tensor offsets, Tensor[] up, Tensor[] down,"
    " bool[] trainable) -> (Tensor, Tensor[], Tensor[], Tensor[], Tensor[])",
    _backward_reference,
    _backward_fake,
)
differentiable("expert_mlp", _backward, _setup_context)
