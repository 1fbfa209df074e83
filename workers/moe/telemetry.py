"""What a model's routers tell about themselves: gate weights by expert, auxiliary losses.

Counts stay on the device until they are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from workers.moe.growable import Routed


def usage(module: nn.Module) -> dict[str, list[float]]:
    """Layer -> mean gate weight of each expert since the last call; one device sync in all.

    Layers that counted no token are left out.
    """
    names, means = [], []
    for name, part in _routed(module):
        sums, tokens = part.gate_sums()
        if tokens:
            names.append(name)
            means.append(sums.double() / tokens)
        part.reset_usage()
    if not means:
        return {}
    flat = iter(torch.cat(means).tolist())
    return {name: [next(flat) for _ in mean] for name, mean in zip(names, means, strict=True)}


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


def auxiliary_loss(module: nn.Module) -> Tensor:
    """Sum of the layers' auxiliary losses of the last training forward; taken, not kept."""
    loss = take_auxiliary(routed(module))
    return next(module.parameters()).new_zeros(()) if loss is None else loss


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
