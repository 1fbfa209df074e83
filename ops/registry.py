"""How an op is registered: schema once, plain-torch reference as the default kernel.

A compiled library adds kernels under device keys of the same names; the dispatcher then prefers
them. Knows neither which ops exist nor how the library is built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

NAMESPACE = "growstage"
MAX_SLOTS = 2**31 - 1
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")
_KEYS = {"cpu": "CPU", "cuda": "CUDA"}
_REFERENCES: dict[str, Callable[..., Any]] = {}


def define(
    name: str,
    schema: str,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
) -> Callable[..., Any]:
    """Register ``growstage::name``; ``reference`` answers on every device that has no own kernel.

    ``schema`` is the part after the name, ``fake`` gives the outputs' shapes without data.
    """
    qualified = f"{NAMESPACE}::{name}"
    torch.library.define(qualified, schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(qualified, "default", reference)
    torch.library.register_fake(qualified, fake)
    _REFERENCES[qualified] = reference
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def differentiable(
    name: str, backward: Callable[..., Any], setup_context: Callable[..., Any]
) -> None:
    """Register the gradient of ``growstage::name``, an op without lists of tensors.

    ``setup_context(ctx, inputs, output)`` keeps what ``backward(ctx, *grads)`` needs.
    """

    class Gradient(torch.autograd.Function):
        """The op with a gradient; the last argument runs it without."""

        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            *inputs, below = arguments
            output = below(*inputs)
            setup_context(ctx, tuple(inputs), output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return *backward(ctx, *grads), None

    def call(below: Callable[..., Any], *inputs: Any) -> Any:
        wanted = any(isinstance(x, torch.Tensor) and x.requires_grad for x in inputs)
        if wanted and torch.is_grad_enabled():
            return Gradient.apply(*inputs, below)
        return below(*inputs)

    differentiable_by(name, call)


def differentiable_by(name: str, call: Callable[..., Any]) -> None:
    """Let ``call(below, *arguments)`` answer ``growstage::name`` where gradients may be wanted.

    ``below(*arguments)`` runs the op without them. A tenth of a millisecond and more cheaper per
    call than ``torch.library.register_autograd``, which walks through lists of tensors repeatedly.
    """
    op = getattr(getattr(torch.ops, NAMESPACE), name).default

    def autograd(keys: Any, *arguments: Any) -> Any:
        rest = keys & torch._C._after_autograd_keyset

        def below(*values: Any) -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                return op.redispatch(rest, *values)

        return call(below, *arguments)

    _LIBRARY.impl(name, autograd, "Autograd", with_keyset=True)


def names() -> tuple[str, ...]:
    """Qualified names of all registered ops."""
    return tuple(_REFERENCES)


def reference(name: str) -> Callable[..., Any]:
    """The plain-torch kernel of an op, by its qualified name: the oracle of the compiled ones."""
    return _REFERENCES[name]


def compiled(device: str = "cpu") -> tuple[str, ...]:
    """Qualified names of the ops that have a kernel of their own for the device type."""
    key = _KEYS.get(device.partition(":")[0])
    if key is None:
        return ()
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return tuple(name for name in _REFERENCES if has_kernel(name, key))


def backend(device: str = "cpu") -> str:
    """``compiled`` if all kernels for the device type are there, else ``reference``."""
    return "compiled" if compiled(device) == names() else "reference"


def check_slots(tokens: int, slots: int) -> None:
    """Slots are numbered in 32 bits inside the kernels."""
    if tokens * slots > MAX_SLOTS:
        raise ValueError(
            f"{tokens} tokens x {slots} slots are more than the 2^31 - 1 slots that one call "
            "supports; use smaller batches"
        )
