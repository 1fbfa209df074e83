"""``expert_mlp``: each expert's layer(s) on its own rows; widths may differ between experts.

Letters: S rows, E experts, D inputs, H hidden (H_e of expert e), O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ops.registry import MAX_SLOTS, define, differentiable_by

_ATEN = torch.ops.aten


def _relu_gradient(grad: Tensor, kept: Tensor) -> Tensor:
    y: Tensor = _ATEN.threshold_backward(grad, kept, 0)
    return y


def _gelu_gradient(grad: Tensor, kept: Tensor) -> Tensor:
    y: Tensor = _ATEN.gelu_backward(grad, kept)
    return y


def _silu_gradient(grad: Tensor, kept: Tensor) -> Tensor:
    y: Tensor = _ATEN.silu_backward(grad, kept)
    return y


Activation = tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]
ACTIVATIONS: dict[str, Activation] = {
    "relu": (torch.relu, _relu_gradient),
    "gelu": (functional.gelu, _gelu_gradient),
    "silu": (functional.silu, _silu_gradient),
}
"""Function and gradient, which reads what the forward kept: ReLU's output, else the input."""
_CODES = {name: code for code, name in enumerate(ACTIVATIONS)}
_FUNCTIONS = tuple(ACTIVATIONS.values())
_RELU = _CODES["relu"]


def expert_mlp(
    rows_SD: Tensor,
    offsets: Tensor,
    up: Sequence[Tensor],
    up_bias: Sequence[Tensor] = (),
    down: Sequence[Tensor] = (),
    down_bias: Sequence[Tensor] = (),
    *,
    activation: str = "relu",
    gated: bool = False,
    learning_S: Tensor | None = None,
) -> Tensor:
    """``down_e act(up_e x + up_bias_e) + down_bias_e`` on rows ``offsets[e]:offsets[e + 1]``.

    ``up`` holds E tensors [H_e, D], ``down`` E tensors [O, H_e]. Empty ``down`` = linear experts
    (``up_e x + up_bias_e``, no activation; all H_e are O). ``gated``: ``up`` holds E tensors
    [2 H_e, D], the gate's rows before those of the values, and the hidden units are
    ``act(gate_e x) * (value_e x)`` (GLU variants, arXiv 2002.05202). Both lists of biases may be
    empty. Rows past the last offset become 0.
    ``learning`` (bool [S]) leaves rows out of the gradients of the experts' parameters, but not
    out of their own (DES-MoE, arXiv 2509.16882, equation 8). Parameters that need no gradient
    cost no work on it. Returns [S, O].
    """
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"unknown activation {activation!r}; allowed: {', '.join(sorted(ACTIVATIONS))}"
        )
    if gated and not down:
        raise ValueError("gated experts need a down for each up")
    if (len(up_bias), len(down_bias)) not in ((0, 0), (len(up), len(down))):
        raise ValueError("experts need one bias for each weight, or none at all")
    y_SO: Tensor
    y_SO, _ = _OP(
        rows_SD,
        offsets,
        list(up),
        list(up_bias),
        list(down),
        list(down_bias),
        learning_S,
        _CODES[activation],
        torch.backends.cuda.matmul.allow_tf32,
        gated,
    )
    return y_SO


def _output_width(up: Sequence[Tensor], down: Sequence[Tensor]) -> int:
    return (down or up)[0].shape[0]


def _hidden_width(up: Sequence[Tensor], down: Sequence[Tensor]) -> int:
    return max(u.shape[0] for u in up) if down else 0


def _linear(x: Tensor, weight: Tensor, biases: list[Tensor], e: int) -> Tensor:
    return torch.addmm(biases[e], x, weight.t()) if biases else torch.mm(x, weight.t())


def _reference(
    rows_SD: Tensor,
    offsets: Tensor,
    up: list[Tensor],
    up_bias: list[Tensor],
    down: list[Tensor],
    down_bias: list[Tensor],
    learning_S: Tensor | None,
    activation: int,
    tf32: bool,
    gated: bool = False,
) -> tuple[Tensor, Tensor]:
    assert rows_SD.shape[0] <= MAX_SLOTS, rows_SD.shape
    y_SO = rows_SD.new_zeros((rows_SD.shape[0], _output_width(up, down)))
    hidden_SH = rows_SD.new_zeros((rows_SD.shape[0], _hidden_width(up, down)))
    bounds = offsets.tolist()
    for e, (start, stop) in enumerate(pairwise(bounds)):
        if start == stop:
            continue
        inner = _linear(rows_SD[start:stop], up[e], up_bias, e)
        if down:
            active = _active(inner, activation, gated)
            keep_output = activation == _RELU and not gated
            hidden_SH[start:stop, : inner.shape[1]] = active if keep_output else inner
            inner = _linear(active, down[e], down_bias, e)
        y_SO[start:stop] = inner
    return y_SO, hidden_SH


def _active(inner: Tensor, activation: int, gated: bool) -> Tensor:
    """Hidden units from what the first linear map gave."""
    function = _FUNCTIONS[activation][0]
    if not gated:
        return function(inner)
    gate, value = inner.chunk(2, 1)
    return function(gate) * value


def _fake(
    rows_SD: Tensor, _offsets: Tensor, up: list[Tensor], _bias: Any, down: list[Tensor], *_: Any
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
    learning_S: Tensor | None,
    trainable: list[bool],
    rows_wanted: bool,
    activation: int,
    tf32: bool,
    gated: bool = False,
    biased: bool = True,
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    grad_rows = rows_SD.new_zeros((rows_SD.shape[0] if rows_wanted else 0, rows_SD.shape[1]))
    gradients = _empty_gradients(grad_SO, up, down, trainable, biased)
    d_up, d_up_bias, d_down, d_down_bias = gradients
    bounds = offsets.tolist()
    for e, (start, stop) in enumerate(pairwise(bounds)):
        if start == stop:
            continue
        grad, kept = grad_SO[start:stop], None if learning_S is None else learning_S[start:stop]
        if down:
            inner = hidden_SH[start:stop, : up[e].shape[0]]
            if trainable[e]:
                active_already = activation == _RELU and not gated
                active = inner if active_already else _active(inner, activation, gated)
                _parameters(grad, active, kept, d_down[e], d_down_bias[e : e + 1])
            grad = _hidden_gradient(grad @ down[e], inner, activation, gated)
        if trainable[e]:
            _parameters(grad, rows_SD[start:stop], kept, d_up[e], d_up_bias[e : e + 1])
        if rows_wanted:
            torch.mm(grad, up[e], out=grad_rows[start:stop])
    return grad_rows, d_up, d_up_bias, d_down, d_down_bias


def _hidden_gradient(grad: Tensor, inner: Tensor, activation: int, gated: bool) -> Tensor:
    """Gradient of what the first linear map gave, from that of the hidden units."""
    function, gradient = _FUNCTIONS[activation]
    if not gated:
        return gradient(grad, inner)
    gate, value = inner.chunk(2, 1)
    return torch.cat([gradient(grad * value, gate), grad * function(gate)], 1)


def _parameters(
    grad: Tensor, inputs: Tensor, learning: Tensor | None, weight: Tensor, bias: list[Tensor]
) -> None:
    """Gradients of a linear map's weight and bias, from the rows that it may learn from."""
    if learning is not None:
        grad, inputs = grad[learning], inputs[learning]
    torch.mm(grad.t(), inputs, out=weight)
    for its in bias:  # one or none
        torch.sum(grad, 0, out=its)


def _empty_gradients(
    grad_SO: Tensor, up: list[Tensor], down: list[Tensor], trainable: list[bool], biased: bool
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Zero gradients for each weight and bias; zero-sized ones where nothing is trained."""
    gradients = []
    for weights in (up, down):
        flags = trainable[: len(weights)]
        shapes = [w.shape if kept else (0, 0) for w, kept in zip(weights, flags, strict=True)]
        gradients.append([grad_SO.new_zeros(shape) for shape in shapes])
        gradients.append([grad_SO.new_zeros(shape[:1]) for shape in shapes if biased])
    return tuple(gradients)  # type: ignore[return-value]


def _backward_fake(
    grad_SO: Tensor,
    rows_SD: Tensor,
    _hidden: Tensor,
    _offsets: Tensor,
    up: list[Tensor],
    down: list[Tensor],
    _learning: Tensor | None,
    trainable: list[bool],
    rows_wanted: bool,
    _activation: int,
    _tf32: bool,
    gated: bool = False,
    biased: bool = True,
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    grad_rows = rows_SD.new_empty((rows_SD.shape[0] if rows_wanted else 0, rows_SD.shape[1]))
    return grad_rows, *_empty_gradients(grad_SO, up, down, trainable, biased)


class _Gradient(torch.autograd.Function):
    """Gradient of the op, over flat arguments: rows, offsets, mask, then the lists in a row."""

    @staticmethod
    def forward(ctx: Any, below: Any, settings: tuple[Any, ...], *tensors: Any) -> Any:
        ctx.lengths, *ctx.settings = settings
        rows_SD, offsets, learning_S, *weights = tensors
        lists = _lists(weights, ctx.lengths)
        y_SO, hidden_SH = below(rows_SD, offsets, *lists, learning_S, *ctx.settings)
        ctx.mark_non_differentiable(hidden_SH)
        ctx.set_materialize_grads(False)  # no zeros as large as the hidden units
        ctx.save_for_backward(rows_SD, hidden_SH, offsets, learning_S, *lists[0], *lists[2])
        return y_SO, hidden_SH

    @staticmethod
    def backward(ctx: Any, grad_SO: Tensor | None, _hidden: Any) -> Any:
        if grad_SO is None:
            return (None,) * len(ctx.needs_input_grad)
        rows_SD, hidden_SH, offsets, learning_S, *weights = ctx.saved_tensors
        experts, rows_wanted = ctx.lengths[0], ctx.needs_input_grad[2]
        flags = [group for group in _lists(ctx.needs_input_grad[5:], ctx.lengths) if group]
        trainable = [any(wanted) for wanted in zip(*flags, strict=True)]
        up, down = weights[:experts], weights[experts:]
        saved = (rows_SD, hidden_SH, offsets, up, down, learning_S)
        how = (trainable, rows_wanted, *ctx.settings, ctx.lengths[1] > 0)
        grad_rows, *gradients = _BACKWARD(grad_SO, *saved, *how)
        flat = [
            gradient if wanted else None
            for group in gradients
            for gradient, wanted in zip(group, trainable, strict=False)
        ]
        return None, None, grad_rows if rows_wanted else None, None, None, *flat


def _lists(flat: Sequence[Any], lengths: Sequence[int]) -> list[list[Any]]:
    rest = iter(flat)
    return [[next(rest) for _ in range(length)] for length in lengths]


def _autograd(below: Callable[..., Any], rows_SD: Tensor, offsets: Tensor, *rest: Any) -> Any:
    *lists, learning_S, activation, tf32 = rest[:7]
    gated = rest[7:] == (True,)  # the dispatcher leaves out an argument that has its default
    weights = [weight for group in lists for weight in group]
    if torch.is_grad_enabled() and any(x.requires_grad for x in (rows_SD, *weights)):
        settings = ([len(group) for group in lists], activation, tf32, gated)
        return _Gradient.apply(below, settings, rows_SD, offsets, learning_S, *weights)
    return below(rows_SD, offsets, *rest)


_OP = define(
    "expert_mlp",
    "(Tensor rows, Tensor offsets, Tensor[] up, Tensor[] up_bias, Tensor[] down,"
    " Tensor[] down_bias, Tensor? learning, int activation, bool tf32, bool gated=False)"
    " -> (Tensor y, Tensor hidden)",
    _reference,
    _fake,
)
_BACKWARD = define(
    "expert_mlp_backward",
    "(Tensor grad, Tensor rows, Tensor hidden, Tensor offsets, Tensor[] up, Tensor[] down,"
    " Tensor? learning, bool[] trainable, bool rows_wanted, int activation, bool tf32,"
    " bool gated=False, bool biased=True)"
    " -> (Tensor, Tensor[], Tensor[], Tensor[], Tensor[])",
    _backward_reference,
    _backward_fake,
)
differentiable_by("expert_mlp", _autograd)
