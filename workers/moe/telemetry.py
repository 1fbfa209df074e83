"""What a model's routers tell about themselves: gate weights by expert, auxiliary losses.

Counts stay on the device until they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from workers.moe.growth.growable import Routed

Total = Callable[[Tensor], Tensor]
"""Adds counts up over the workers that train one model."""


def own(counts: Tensor) -> Tensor:
    """The total where nobody else counts."""
    return counts


def usage(module: nn.Module, add_up: Total = own) -> dict[str, list[float]]:
    """Layer -> mean gate weight of each expert since the last call; one device sync in all.

    Layers that counted no token are left out. ``add_up``: sums what each worker counted.
    """
    parts = list(_routed(module))
    if not parts:
        return {}
    counted = []
    for _, part in parts:
        sums, tokens = part.gate_sums()
        counted += [sums.double(), sums.new_tensor([tokens], dtype=torch.float64)]
        part.reset_usage()
    flat = iter(add_up(torch.cat(counted)).tolist())
    found = {}
    for (name, _), sums in zip(parts, counted[::2], strict=True):
        weights, tokens = [next(flat) for _ in sums], next(flat)
        if tokens:
            found[name] = [weight / tokens for weight in weights]
    return found


@contextmanager
def recording(module: nn.Module) -> Iterator[None]:
    """Count gate weights of every forward inside the block (evaluation); read with ``usage``.

    What training had counted before is dropped, so use it where no interval is open.
    """
    parts = [part for _, part in _routed(module)]
    for part in parts:
        part.reset_usage()
        part.record_always(True)
    try:
        yield
    finally:
        for part in parts:
            part.record_always(False)


@contextmanager
def keeping(module: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Keep the gate weights [T, E] of every forward inside the block: layer -> one per forward."""
    kept: dict[str, list[Tensor]] = {}
    parts = list(_routed(module))
    for name, part in parts:
        part.keep_gates(kept.setdefault(name, []))
    try:
        yield kept
    finally:
        for _, part in parts:
            part.keep_gates(None)


def routed(module: nn.Module) -> tuple[Routed, ...]:
    """The module's parts with a router. Growth adds experts, never routers."""
    return tuple(part for _, part in _routed(module))


def take_auxiliary(parts: Iterable[Routed]) -> Tensor | None:
    """Sum of the parts' auxiliary losses of the last training forward; None if there are none."""
    losses = [part.take_auxiliary_loss() for part in parts]
    wanted = [loss for loss in losses if loss is not None]
    return torch.stack(wanted).sum() if wanted else None


def _routed(module: nn.Module) -> Iterator[tuple[str, Routed]]:
    for name, part in module.named_modules():
        if isinstance(part, Routed):
            yield name, part
