"""Surgery: apply an edit to any module that contains growable parts, and prove what it did.

Seeded and deterministic: replicas that hold the same parameters and apply the same edit end with
the same fingerprint. Knows no model by name and no cluster.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from workers.contract import EditReport, Grow, InputError, derive_seed
from workers.moe.growable import Growable, Grown, Growth, arch, ensure_arch, growables, shape
from workers.moe.initialisers import INITIALISERS, Initialiser
from workers.moe.optimizer import rebind
from workers.tables import Problem, lookup

__all__ = ["apply", "arch", "ensure_arch", "fingerprint", "shape"]

Forward = Callable[[Tensor], Tensor]


def apply(
    module: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    edit: Grow,
    probe: Tensor | None,
    forward: Forward | None = None,
) -> EditReport:
    """Give every growable part ``edit.experts`` experts; changes nothing where it has them.

    A part under a schedule takes its share of ``edit.experts``. The optimizer keeps the state of
    old parameters bit for bit, or drops all state, as the edit says; a module without growable
    parts only has its optimizer reset, so that static baselines get the same resets.
    ``probe`` is passed through ``forward`` (default: the module) in evaluation mode, to measure
    how far the output moved and, for the reading ``rescale``, to refit the experts. Parts with a
    rule of their own (the baselines) pay no heed to the initialiser. Raises InputError, with
    nothing changed, where the edit cannot be done.
    """
    began = time.perf_counter()
    run = forward or module
    before = shape(module)
    growths = _plan(module, edit, probe, run)
    output = None if probe is None else _answer(module, run, probe)
    parents: dict[str, list[int | None]] = {}
    narrowed: dict[str, tuple[nn.Parameter, int, Tensor]] = {}
    old = dict(module.named_parameters()) if edit.reading == "rescale" else {}
    for name, (part, growth) in growths.items():
        grown = part.grow(growth)
        parents[name] = grown.parents
        narrowed |= _absolute(name, grown, old)
    if optimizer is not None and (growths or not before.layers):
        rebind(optimizer, module, keep=edit.optimizer == "keep", narrowed=narrowed)
    change = None
    if output is not None and probe is not None:
        change = float((_answer(module, run, probe) - output).abs().max())
    return EditReport(
        edit=edit.id,
        fingerprint=fingerprint(module),
        before=before,
        after=shape(module),
        probe_change=change,
        parents=parents,
        seconds=time.perf_counter() - began,
    )


def fingerprint(module: nn.Module) -> str:
    """SHA-256 (16 hex digits) of architecture, frozen set, parameters and persistent buffers."""
    frozen = sorted(name for name, p in module.named_parameters() if not p.requires_grad)
    state = module.state_dict()
    head = [arch(module), frozen, [[k, str(v.dtype), list(v.shape)] for k, v in state.items()]]
    sha = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for tensor in state.values():
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        sha.update(data.numpy())
    return sha.hexdigest()[:16]


def initialiser(name: str) -> Initialiser:
    """The initialiser of this name with its default settings."""
    found: Any = lookup(INITIALISERS, name, "edit.initialiser")
    if isinstance(found, Problem):
        raise InputError(str(found))
    made: Initialiser = found(found.Config())
    return made


def _plan(
    module: nn.Module, edit: Grow, probe: Tensor | None, run: Forward
) -> dict[str, tuple[Growable, Growth]]:
    """The checked growth of every part that is to change; the module stays as it is."""
    first = initialiser(edit.initialiser)
    growths: dict[str, tuple[Growable, Growth]] = {}
    for name, part in growables(module).items():
        if part.target(edit.experts) == part.live:
            continue
        growth = Growth(
            experts=edit.experts,
            initialiser=first,
            seed=derive_seed(edit.seed, name),
            stage=edit.stage,
            reading=edit.reading,
        )
        growths[name] = (part, growth)
    if edit.reading == "rescale" and probe is not None:
        inputs = _inputs({name: part for name, (part, _) in growths.items()}, module, run, probe)
        growths = {
            name: (part, replace(growth, inputs=inputs.get(name)))
            for name, (part, growth) in growths.items()
        }
    for part, growth in growths.values():
        part.check(growth)
    return growths


def _absolute(
    name: str, grown: Grown, old: dict[str, nn.Parameter]
) -> dict[str, tuple[nn.Parameter, int, Tensor]]:
    prefix = f"{name}." if name else ""
    return {
        f"{prefix}{local}": (old[f"{prefix}{local}"], dim, kept)
        for local, (dim, kept) in grown.narrowed.items()
    }


def _inputs(
    parts: dict[str, Growable], module: nn.Module, run: Forward, probe: Tensor
) -> dict[str, Tensor]:
    """What each part reads when the probe passes through the module."""
    seen: dict[str, Tensor] = {}
    handles = [
        part.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]}))
        for name, part in parts.items()
    ]
    try:
        _answer(module, run, probe)
    finally:
        for handle in handles:
            handle.remove()
    return seen


@torch.no_grad()
def _answer(module: nn.Module, run: Forward, probe: Tensor) -> Tensor:
    with _evaluating(module):
        return run(probe).detach().clone()


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; every part gets its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
