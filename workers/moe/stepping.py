"""What routed layers are told around a training step, and what is taken from them after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from workers.moe.routed import Layers, RoutedLayer, StepContext, routed_layers
from workers.moe.tallies import Total


def _layers(where: nn.Module | Layers) -> Layers:
    return routed_layers(where) if isinstance(where, nn.Module) else where


@contextmanager
def stepping(where: nn.Module | Layers, context: StepContext) -> Iterator[None]:
    """Tell all routed layers of a model, or these, about the step taken inside the block.

    A forward after the block knows nothing of it, whatever ended the block.
    """
    parts = _layers(where)
    for layer in parts.values():
        layer.record.begin(context)
    try:
        yield
    finally:
        for layer in parts.values():
            layer.record.end()


def go_on(layers: Layers, context: StepContext) -> None:
    """Inside ``stepping``: tell the layers of the part of the step's samples that comes next."""
    for layer in layers.values():
        layer.record.go_on(context)


def take_losses(layers: Layers) -> dict[str, Tensor]:
    """``loss/<kind>/<layer>`` -> weighted scalar of the last training forward; empties."""
    found: dict[str, Tensor] = {}
    for name, layer in layers.items():
        losses, layer.record.losses = layer.record.losses, {}
        found |= {f"loss/{kind}/{name}": loss for kind, loss in losses.items()}
    return found


def drop_gradients(layers: Layers, anywhere: Total | None = None) -> None:
    """After the backward pass: experts that no token chose and may teach get no gradient at all.

    None, not zero: momentum and weight decay would move a parameter whose gradient is zero. The
    rule holds with and without masks. ``anywhere``: makes of this replica's flags (bool, one for
    each expert of all layers) those that hold in any replica, so that all drop the same
    gradients. Syncs once, and not at all where every expert learns from every token.
    """
    flagged: list[tuple[RoutedLayer, Tensor]] = []
    for layer in layers.values():
        ran, reached_E = layer.record.take_reached()
        if reached_E is None and anywhere is not None:
            device = next(layer.parameters()).device
            reached_E = torch.full((layer.live,), ran, device=device)
        if reached_E is not None:
            flagged.append((layer, reached_E))
    if not flagged:
        return
    flags = torch.cat([reached_E for _, reached_E in flagged])
    learns = iter((flags if anywhere is None else anywhere(flags)).tolist())
    for layer, _ in flagged:
        for expert in layer.experts.values():
            if not next(learns):
                expert.zero_grad(set_to_none=True)


@contextmanager
def telling(model: nn.Module, domain_N: Tensor | None) -> Iterator[None]:
    """Tell layers that need it the domain of each sample that passes the model inside the block.

    For forwards outside a training step: N samples in this order, in any batches, over and over.
    Of blocks inside one another the inner one counts while it lasts. ``domain_N``: place of each
    one's domain among the stream's, int64; None = nobody knows.
    """
    layers = [layer for layer in routed_layers(model).values() if layer.needs_domain]
    if domain_N is None or not layers:
        yield
        return
    passed, before = 0, [layer.record.step for layer in layers]

    def tell(_: nn.Module, inputs: Any) -> None:
        nonlocal passed
        samples = len(inputs[0])
        passed = passed if passed < len(domain_N) else 0
        domain_B = domain_N[passed : passed + samples].to(inputs[0].device)
        assert len(domain_B) == samples, (len(domain_N), passed, samples)
        passed += samples
        for layer in layers:
            layer.record.step = StepContext(domain_B=domain_B)

    handle = model.register_forward_pre_hook(tell)
    try:
        yield
    finally:
        handle.remove()
        for layer, step in zip(layers, before, strict=True):
            layer.record.step = step
