"""Masks and phases over a whole model: what an edit sets on every routed layer.

DES-MoE (arXiv 2509.16882). Knows routed layers, but no training loop and no cluster; the edits
come here through ``plan_mask`` and ``plan_phase``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

from torch import nn

from workers.contract import DivergedError, InputError, derive_seed
from workers.edits import AdaptRouter, Parents, RefreshMask, Role, SetPhase
from workers.moe.domains.masks import Mask
from workers.moe.layers.moe import MoELayer
from workers.moe.routed import Birth, routed_layers
from workers.moe.seeding import seeded

# ---------------------------------------------------------------- edits


def plan_mask(module: nn.Module, edit: RefreshMask) -> Callable[[], Parents]:
    """Check a new mask against the model, which stays as it is; the result sets it."""
    parts = routed_layers(module)
    _check_layers(parts, edit)
    for name, layer in parts.items():
        _check_mask(name, layer, edit)
    return lambda: {name: _refresh(name, layer, edit) for name, layer in parts.items()}


def plan_phase(module: nn.Module, edit: SetPhase) -> Callable[[], Parents]:
    """Check that the model has what a phase trains; the result starts the phase."""
    parts = routed_layers(module)
    if not parts:
        raise InputError(
            "a phase trains routers or experts, and the model has neither; use a routed head "
            "(head moe or big_moe), or leave the policy of phases out"
        )

    def change() -> Parents:
        for layer in parts.values():
            layer.phase = edit.trains
        enforce(module)
        return {}

    return change


def plan_adapt(module: nn.Module, edit: AdaptRouter) -> Callable[[], Parents]:
    """Check that there is a router that can take over; the result has them do so."""
    able = {
        name: layer
        for name, layer in routed_layers(module).items()
        if any(router.adapts for router in layer.routers)
    }
    if not able:
        raise InputError(
            "no router of the model can take over from another; use router adaptive, or leave the "
            "policy adapt_router out"
        )

    def change() -> Parents:
        for name, layer in able.items():
            adapt(layer, derive_seed(edit.seed, name, "router"))
        return {}

    return change


def adapt(layer: MoELayer, seed: int) -> None:
    """Have the layer's adaptive routers take over from their linear ones; others stay."""
    for number, router in enumerate(layer.routers):
        router.adapt(seed if number == 0 else derive_seed(seed, number))


def enforce(module: nn.Module) -> None:
    """Freeze what the model's phase does not train, and experts that are frozen for good."""
    _enforce_phase(module)
    for layer in routed_layers(module).values():
        for number in layer.frozen & layer.births.keys():
            # what a form has in common too: frozen experts would answer otherwise if it moved
            for parameter in (*layer.parameters_of(number), *layer.common.parameters()):
                parameter.requires_grad_(False)
                parameter.grad = None


def _enforce_phase(module: nn.Module) -> None:
    """Freeze what the model's phase does not train; a model without a phase is left alone."""
    parts = routed_layers(module)
    phases = {layer.phase for layer in parts.values()}
    assert len(phases) <= 1, phases
    trains = next(iter(phases), None)
    if trains is None:
        return
    for role, parameters in roles_of(module).items():
        for parameter in parameters:
            parameter.requires_grad_(role in trains)
            if role not in trains:
                parameter.grad = None


def roles_of(module: nn.Module) -> dict[Role, list[nn.Parameter]]:
    """Every parameter that a phase may train, by its role; a router's teacher is not among them."""
    layers = routed_layers(module).values()
    router = [p for layer in layers for r in layer.routers for p in r.trainable_parameters()]
    router += [p for layer in layers for p in layer.selector.parameters()]
    experts = [
        p
        for layer in layers
        for part in (layer.experts, layer.shared, layer.common)
        for p in part.parameters()
    ]
    inside = {id(p) for layer in layers for p in layer.parameters()}
    backbone = [p for p in module.parameters() if id(p) not in inside]
    return {"router": router, "experts": experts, "backbone": backbone}


def _refresh(name: str, layer: MoELayer, edit: RefreshMask) -> list[int | None]:
    """Copy what the edit copies and set the mask; copies that are there already stay."""
    parents: list[int | None] = []
    groups: dict[int, list[int]] = defaultdict(list)
    for copy in edit.copies.get(name, ()):
        if copy.expert not in layer.births:
            _duplicate(layer, copy.expert, copy.parent, copy.owner, edit.stage)
            groups[copy.parent].append(copy.expert)
            parents.append(copy.parent)
    for parent, numbers in groups.items():
        _share(layer, [parent, *numbers])
    births = layer.births.items() if edit.exclusive else ()
    copies = {n: birth.owner for n, birth in births if birth.owner is not None}
    rows = tuple(tuple(row) for row in edit.masks[name])
    layer.masking.set(Mask(version=edit.version, domains=edit.domains, rows=rows, copies=copies))
    return parents


def _duplicate(layer: MoELayer, number: int, parent: int, owner: str, stage: str) -> None:
    """Add the copy ``number`` of ``parent`` for a domain; the router scores both alike."""
    with seeded(0):  # every value is overwritten
        layer.add(number, Birth(stage, parent, owner))
    layer.expert(number).load_state_dict(layer.expert(parent).state_dict())
    for router in layer.routers:
        router.split(parent, number, 0.0)


def _share(layer: MoELayer, numbers: list[int]) -> None:
    """Shift the logits of experts that are alike so that together they weigh as one did."""
    amount = layer.selector.logit_shift(len(numbers))
    for router in layer.routers:
        for number in numbers:
            router.shift_bias(number, -amount)


def _check_layers(parts: Mapping[str, MoELayer], edit: RefreshMask) -> None:
    if set(parts) != set(edit.masks):
        raise InputError(
            f"mask version {edit.version} is for the layers {sorted(edit.masks)}, the model has "
            f"the routed layers {sorted(parts)}; give a mask for each of them"
        )


def _check_mask(name: str, layer: MoELayer, edit: RefreshMask) -> None:
    where = f"mask version {edit.version}, layer {name!r}"
    present = layer.mask
    if present is not None and present.version > edit.version:
        raise DivergedError(f"{where}: the model already trains under version {present.version}")
    rows = edit.masks[name]
    if len(rows) != len(edit.domains):
        raise InputError(
            f"{where}: {len(rows)} rows for {len(edit.domains)} domains; give one each"
        )
    new = [copy for copy in edit.copies.get(name, ()) if copy.expert not in layer.births]
    experts = layer.born + len(new)
    if edit.copies.get(name):
        try:
            layer.check_copies(layer.live + len(new), edit.exclusive)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    expected = list(range(layer.born, experts))
    if [copy.expert for copy in new] != expected:
        raise InputError(f"{where}: copies {[c.expert for c in new]}, their ids must be {expected}")
    for copy in new:
        if copy.parent not in layer.births or copy.owner not in edit.domains:
            raise InputError(
                f"{where}: copy {copy.expert} of expert {copy.parent} for {copy.owner!r}; allowed: "
                f"experts {', '.join(map(str, layer.births))} and domains "
                f"{', '.join(edit.domains)}"
            )
    for domain, row in zip(edit.domains, rows, strict=True):
        if len(row) > experts or (new and len(row) < experts):
            raise InputError(
                f"{where}, domain {domain!r}: {len(row)} experts, the layer has {experts}; a mask "
                "names only experts that exist"
            )
        there = [bit for number, bit in enumerate(row) if number not in layer.experts.removed]
        if not any(there) and len(row) == experts:
            raise InputError(f"{where}, domain {domain!r}: no expert; leave at least one")
