"""Experts specialised by domain, over a whole model: masks, phases, counts and masked steps.

DES-MoE (arXiv 2509.16882). Knows banks, but no training loop and no cluster; ``surgery`` applies
the edits through ``plan_mask`` and ``plan_phase``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from workers.contract import DivergedError, InputError, derive_seed
from workers.edits import AdaptRouter, Parents, RefreshMask, Role, SetPhase
from workers.moe.bank import ExpertBank
from workers.moe.domains.masks import Mask
from workers.moe.telemetry import Total, own

Counts = tuple[dict[str, dict[str, list[int]]], dict[str, int]]
"""(layer -> domain -> tokens that chose each expert, domain -> tokens); integers."""


def banks(module: nn.Module) -> dict[str, ExpertBank]:
    """The model's expert banks by module name."""
    return {name: part for name, part in module.named_modules() if isinstance(part, ExpertBank)}


# ---------------------------------------------------------------- around a training step


def point(parts: Iterable[ExpertBank], domains: tuple[str, ...], index_B: Tensor | None) -> None:
    """Say which of ``domains`` each sample of the next batch belongs to (int64 [B])."""
    for bank in parts:
        bank.guide.point(domains, index_B)


def set_progress(parts: Iterable[ExpertBank], share: float) -> None:
    """Say which share of the stage's training is done, 0 to 1 (DES-MoE, equation 4)."""
    for bank in parts:
        bank.router.progress = share


def drop_masked(
    parts: Iterable[ExpertBank], anywhere: Callable[[Tensor], Tensor] | None = None
) -> None:
    """After the backward pass: experts that no token may teach get no gradient at all.

    None, not zero: momentum and weight decay would move a parameter whose gradient is zero.
    ``anywhere``: makes of the flags of this replica (bool, one for each expert of all layers)
    those that hold in any replica, so that all drop the same gradients. Syncs once.
    """
    found = [(bank, bank.guide.take_learnt()) for bank in parts]
    masked = [(bank, learnt_E) for bank, learnt_E in found if learnt_E is not None]
    if not masked:
        return
    flags = torch.cat([learnt_E for _, learnt_E in masked])
    learns = iter((flags if anywhere is None else anywhere(flags)).tolist())
    for bank, _ in masked:
        for expert in bank.experts.values():
            if not next(learns):
                expert.zero_grad(set_to_none=True)


def take_counts(module: nn.Module, add_up: Total = own) -> Counts:
    """(layer -> domain -> tokens that chose each expert, domain -> tokens) since the last call.

    ``add_up``: sums what each worker counted.
    """
    counts: dict[str, dict[str, list[int]]] = {}
    tokens: dict[str, int] = {}
    parts = banks(module)
    taken = [bank.guide.take_counts(bank.live) for bank in parts.values()]
    if not taken:
        return counts, tokens
    flat = add_up(torch.cat([counted.reshape(-1) for counted in taken]))
    summed = flat.split([counted.numel() for counted in taken])
    for (name, bank), total, counted in zip(parts.items(), summed, taken, strict=True):
        rows = zip(bank.guide.domains, total.view_as(counted).tolist(), strict=True)
        seen = {domain: row for domain, row in rows if row[-1]}
        if seen:
            counts[name] = {domain: row[:-1] for domain, row in seen.items()}
            tokens = {domain: row[-1] for domain, row in seen.items()}
    return counts, tokens


# ---------------------------------------------------------------- edits


def plan_mask(module: nn.Module, edit: RefreshMask) -> Callable[[], Parents]:
    """Check a new mask against the model, which stays as it is; the result sets it."""
    parts = banks(module)
    _check_layers(parts, edit)
    for name, bank in parts.items():
        _check_mask(name, bank, edit)
    return lambda: {name: _refresh(name, bank, edit) for name, bank in parts.items()}


def plan_phase(module: nn.Module, edit: SetPhase) -> Callable[[], Parents]:
    """Check that the model has what a phase trains; the result starts the phase."""
    parts = banks(module)
    if not parts:
        raise InputError(
            "a phase trains routers or experts, and the model has neither; use a routed head "
            "(head moe or big_moe), or leave the policy of phases out"
        )

    def change() -> Parents:
        for bank in parts.values():
            bank.trains = edit.trains
        enforce(module)
        return {}

    return change


def plan_adapt(module: nn.Module, edit: AdaptRouter) -> Callable[[], Parents]:
    """Check that there is a router that can take over; the result has them do so."""
    able = {name: bank for name, bank in banks(module).items() if bank.router.adapts}
    if not able:
        raise InputError(
            "no router of the model can take over from another; use router adaptive, or leave the "
            "policy adapt_router out"
        )

    def change() -> Parents:
        for name, bank in able.items():
            bank.router.adapt(derive_seed(edit.seed, name, "router"))
        return {}

    return change


def enforce(module: nn.Module) -> None:
    """Freeze what the model's phase does not train; a model without a phase is left alone."""
    parts = banks(module)
    phases = {bank.trains for bank in parts.values()}
    assert len(phases) <= 1, phases
    trains = next(iter(phases), None)
    if trains is None:
        return
    for role, parameters in _roles(module, parts).items():
        for parameter in parameters:
            parameter.requires_grad_(role in trains)
            if role not in trains:
                parameter.grad = None


def _roles(module: nn.Module, parts: Mapping[str, ExpertBank]) -> dict[Role, list[nn.Parameter]]:
    """Every parameter that a phase may train, by its role; a router's teacher is not among them."""
    router = [p for bank in parts.values() for p in bank.router.learning_parameters()]
    experts = [p for bank in parts.values() for p in bank.experts.parameters()]
    inside = {id(p) for bank in parts.values() for p in bank.parameters()}
    backbone = [p for p in module.parameters() if id(p) not in inside]
    return {"router": router, "experts": experts, "backbone": backbone}


def _refresh(name: str, bank: ExpertBank, edit: RefreshMask) -> list[int | None]:
    """Copy what the edit copies and set the mask; copies that are there already stay."""
    parents: list[int | None] = []
    groups: dict[int, list[int]] = defaultdict(list)
    for copy in edit.copies.get(name, ()):
        if copy.expert not in bank.births:
            bank.duplicate(copy.expert, copy.parent, copy.owner, edit.stage)
            groups[copy.parent].append(copy.expert)
            parents.append(copy.parent)
    for parent, numbers in groups.items():
        bank.share([parent, *numbers])
    births = bank.births.items() if edit.exclusive else ()
    copies = {n: birth.owner for n, birth in births if birth.owner is not None}
    rows = tuple(tuple(row) for row in edit.masks[name])
    bank.guide.set_mask(Mask(version=edit.version, domains=edit.domains, rows=rows, copies=copies))
    return parents


def _check_layers(parts: Mapping[str, ExpertBank], edit: RefreshMask) -> None:
    if set(parts) != set(edit.masks):
        raise InputError(
            f"mask version {edit.version} is for the layers {sorted(edit.masks)}, the model has "
            f"the routed layers {sorted(parts)}; give a mask for each of them"
        )


def _check_mask(name: str, bank: ExpertBank, edit: RefreshMask) -> None:
    where = f"mask version {edit.version}, layer {name!r}"
    present = bank.guide.mask
    if present is not None and present.version > edit.version:
        raise DivergedError(f"{where}: the model already trains under version {present.version}")
    rows = edit.masks[name]
    if len(rows) != len(edit.domains):
        raise InputError(
            f"{where}: {len(rows)} rows for {len(edit.domains)} domains; give one each"
        )
    new = [copy for copy in edit.copies.get(name, ()) if copy.expert not in bank.births]
    experts = bank.live + len(new)
    expected = list(range(bank.live, experts))
    if [copy.expert for copy in new] != expected:
        raise InputError(f"{where}: copies {[c.expert for c in new]}, their ids must be {expected}")
    for copy in new:
        if copy.parent not in bank.births or copy.owner not in edit.domains:
            raise InputError(
                f"{where}: copy {copy.expert} of expert {copy.parent} for {copy.owner!r}; allowed: "
                f"experts 0 to {bank.live - 1} and domains {', '.join(edit.domains)}"
            )
    for domain, row in zip(edit.domains, rows, strict=True):
        if len(row) > experts or (new and len(row) < experts):
            raise InputError(
                f"{where}, domain {domain!r}: {len(row)} experts, the layer has {experts}; a mask "
                "names only experts that exist"
            )
        if not any(row) and len(row) == experts:
            raise InputError(f"{where}, domain {domain!r}: no expert; leave at least one")
