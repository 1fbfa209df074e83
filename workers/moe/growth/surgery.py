"""Surgery: apply an edit to any module that contains growable parts, and prove what it did.

Seeded and deterministic: replicas that hold the same parameters and apply the same edit end with
the same fingerprint. Knows no model by name and no cluster.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from workers.contract import EditReport, InputError, Json, derive_seed
from workers.edits.base import Change, Edit, EditProbe, Forward, Parents
from workers.edits.grow import Grow
from workers.moe.domains.specialise import enforce
from workers.moe.growth import growable
from workers.moe.growth.growable import Growable, Grown, Growth, arch, growables, shape
from workers.moe.growth.initialisers import INITIALISERS, Initialiser
from workers.moe.growth.optimizer_state import clear_entries, rebind
from workers.moe.stepping import telling
from workers.tables import Problem, lookup

__all__ = ["apply", "arch", "ensure_arch", "fingerprint", "follow", "shape"]

Planned = Callable[[], Change]
"""A checked edit: calling it changes the module."""


def apply(
    module: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    edit: Edit,
    probe: Tensor | EditProbe | None,
    forward: Forward | None = None,
) -> EditReport:
    """Change the module as the edit says; see ``follow``."""
    return follow(module, optimizer, edit, probe, forward)[0]


def follow(
    module: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    edit: Edit,
    probe: Tensor | EditProbe | None,
    forward: Forward | None = None,
) -> tuple[EditReport, Change]:
    """Change the module as the edit says, with its optimizer; applying an edit twice is harmless.

    ``probe``: samples [B, ...], with targets and domains where an edit is to see them. They are
    passed through ``forward`` (default: the module) in evaluation mode, to measure how far the
    output moved. Returns the report, and what happened to parameters, for whoever else keeps
    something about them. Raises InputError, with nothing changed, where the edit cannot be done.
    """
    began = time.perf_counter()
    run = forward or module
    before = shape(module)
    samples = EditProbe(probe) if isinstance(probe, Tensor) else probe
    planned = edit.plan(module, samples, run)
    output = None if samples is None else answer(module, run, samples)
    change = planned()
    enforce(module)
    if optimizer is not None and change.rebind:
        rebind(optimizer, module, keep=change.keep, narrowed=change.narrowed)
    if optimizer is not None:
        clear_entries(optimizer, module, change.cleared)
    moved = None
    if output is not None and samples is not None:
        moved = float((answer(module, run, samples) - output).abs().max())
    report = EditReport(
        edit=edit.id,
        fingerprint=fingerprint(module),
        before=before,
        after=shape(module),
        probe_change=moved,
        parents=change.parents,
        figures=dict(change.figures),
        seconds=time.perf_counter() - began,
    )
    return report, change


def ensure_arch(module: nn.Module, arch: Mapping[str, Json]) -> None:
    """Give the module a saved architecture (see ``growable.ensure_arch``), masks and phase too."""
    growable.ensure_arch(module, arch)
    enforce(module)


def fingerprint(module: nn.Module, without: tuple[str, ...] = ()) -> str:
    """SHA-256 (16 hex digits) of architecture, frozen set, parameters and persistent buffers.

    ``without``: names of parts that do not count, because another replica does not have them.
    """
    left_out = tuple(f"{name}." for name in without)

    def counts(name: str) -> bool:
        return not f"{name}.".startswith(left_out)

    frozen = sorted(
        name for name, p in module.named_parameters() if not p.requires_grad and counts(name)
    )
    state = {name: value for name, value in module.state_dict().items() if counts(name)}
    parts = {name: part for name, part in arch(module).items() if counts(name)}
    head = [parts, frozen, [[k, str(v.dtype), list(v.shape)] for k, v in state.items()]]
    sha = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for tensor in state.values():
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        sha.update(data.numpy())
    return sha.hexdigest()[:16]


def initialiser(settings: Json) -> Initialiser:
    """The initialiser of ``{"kind": ..., settings}`` or of a bare name, also ``module:Class``.

    Raises InputError on a name that is not there and on settings that it does not take.
    """
    named: dict[str, Any] = {"kind": settings} if isinstance(settings, str) else dict(settings)
    where = "edit.initialiser"
    found: Any = lookup(INITIALISERS, named.get("kind"), f"{where}.kind")
    if isinstance(found, Problem):
        raise InputError(str(found))
    try:
        config = found.Config(**named)
    except (TypeError, ValueError) as error:
        names = ", ".join(sorted(item.name for item in fields(found.Config)))
        raise InputError(
            f"{where}: {error}; allowed settings of {named['kind']}: {names}"
        ) from error
    made: Initialiser = found(config)
    return made


def plan_growth(module: nn.Module, edit: Grow, probe: EditProbe | None, run: Forward) -> Planned:
    """Check growth against the module, which stays as it is; the result grows it.

    A part under a schedule takes its share of ``edit.experts``. The optimizer keeps the state of
    old parameters bit for bit, or drops all state, as the edit says; a module without growable
    parts only has its optimizer reset, so that static baselines get the same resets. For the
    reading ``rescale`` the experts are refitted on ``probe``. Parts with a rule of their own (the
    baselines) pay no heed to the initialiser.
    """
    growths = _growths(module, edit, probe, run)
    static = not growables(module)

    def change() -> Change:
        parents: Parents = {}
        narrowed: dict[str, tuple[nn.Parameter, int, Tensor]] = {}
        old = dict(module.named_parameters()) if edit.reading == "rescale" else {}
        for name, (part, growth) in growths.items():
            grown = part.grow(growth)
            parents[name] = grown.parents
            narrowed.update(_absolute(name, grown, old))
        return Change(
            parents=parents,
            narrowed=narrowed,
            rebind=bool(growths) or static,
            keep=edit.optimizer == "keep",
        )

    return change


def _growths(
    module: nn.Module, edit: Grow, probe: EditProbe | None, run: Forward
) -> dict[str, tuple[Growable, Growth]]:
    """The checked growth of every part that is to change; the module stays as it is."""
    first = initialiser(edit.initialiser)
    growths: dict[str, tuple[Growable, Growth]] = {}
    parts = growables(module)
    chosen = parts if edit.layers is None else {name: parts.get(name) for name in edit.layers}
    for name, part in chosen.items():
        if part is None:
            raise InputError(
                f"growth of layer {name!r}: the model has the growable layers {', '.join(parts)}"
            )
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
    if (edit.reading == "rescale" or first.needs_inputs) and probe is not None:
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
    parts: Mapping[str, nn.Module], module: nn.Module, run: Forward, probe: EditProbe
) -> dict[str, Tensor]:
    """What each part reads when the probe passes through the module."""
    seen: dict[str, Tensor] = {}
    handles = [
        part.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]}))
        for name, part in parts.items()
    ]
    try:
        answer(module, run, probe)
    finally:
        for handle in handles:
            handle.remove()
    return seen


@torch.no_grad()
def answer(module: nn.Module, run: Forward, probe: EditProbe) -> Tensor:
    """What the module answers to the probe, in evaluation mode."""
    with _evaluating(module), telling(module, probe.domain):
        return run(probe.x).detach().clone()


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
