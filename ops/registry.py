"""How an op is registered: schema once, plain-torch reference as the default kernel.

A compiled library later adds a kernel under a device key of the same name; the dispatcher then
prefers it. Knows nothing about which ops exist.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

NAMESPACE = "growstage"
_NAMES: list[str] = []


def define(
    name: str, schema: str, reference: Callable[..., Any], fake: Callable[..., Any]
) -> Callable[..., Any]:
    """Register ``growstage::name``; ``reference`` answers on every device that has no own kernel.

    ``schema`` is the part after the name, ``fake`` gives the outputs' shapes without data.
    """
    qualified = f"{NAMESPACE}::{name}"
    torch.library.define(qualified, schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(qualified, "default", reference)
    torch.library.register_fake(qualified, fake)
    _NAMES.append(qualified)
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def differentiable(
    name: str, backward: Callable[..., Any], setup_context: Callable[..., Any]
) -> None:
    """Register the gradient of ``growstage::name``."""
    torch.library.register_autograd(f"{NAMESPACE}::{name}", backward, setup_context=setup_context)


def names() -> tuple[str, ...]:
    """Qualified names of all registered ops."""
    return tuple(_NAMES)


def backend(device: str = "cpu") -> str:
    """``compiled`` if any op has a kernel of its own for the device type, else ``reference``."""
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device.partition(":")[0])
    if key is None:
        return "reference"
    own = any(torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for name in _NAMES)
    return "compiled" if own else "reference"
