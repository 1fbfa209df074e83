"""What routed layers counted since it was last taken: gate weights, choices, selectors' sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from workers.moe.routed import RoutedLayer, routed_layers

Total = Callable[[Tensor], Tensor]
"""Adds counts up over the workers that train one model."""

Counts = tuple[dict[str, dict[str, list[int]]], dict[str, int]]
"""(layer -> domain -> tokens that chose each expert, domain -> tokens); integers."""


def own(counts: Tensor) -> Tensor:
    """The total where nobody else counts."""
    return counts


def take_gate_weights(model: nn.Module, add_up: Total = own) -> dict[str, list[float]]:
    """Layer -> mean gate weight of each expert by id since the last call; one device sync in all.

    Layers that saw no token are left out. ``add_up``: sums what each worker added up.
    """
    parts = routed_layers(model)
    if not parts:
        return {}
    taken = [
        layer.record.counters.take_weights(layer.live).to(next(layer.parameters()).device)
        for layer in parts.values()
    ]
    flat = iter(add_up(torch.cat(taken)).tolist())
    found = {}
    for name, layer in parts.items():
        sums, tokens = [next(flat) for _ in range(layer.live)], next(flat)
        if tokens:
            found[name] = _by_id(layer, [weight / tokens for weight in sums])
    return found


def take_sums(model: nn.Module, add_up: Total = own) -> dict[str, dict[str, list[float]]]:
    """Layer -> what its selector tells of the sums since the last call (``Selector.take``).

    ``add_up``: sums what each worker added up. Layers whose selectors tell nothing are left out.
    """
    parts = routed_layers(model)
    wanted = {name: layer.selector.summed(layer.live) for name, layer in parts.items()}
    wanted = {name: entries for name, entries in wanted.items() if entries}
    if not wanted:
        return {}
    taken = {
        name: parts[name].record.counters.take_sums(entries) for name, entries in wanted.items()
    }
    device = next(model.parameters()).device
    flat = add_up(torch.cat([x.to(device) for sums in taken.values() for x in sums.values()]))
    values = iter(flat.split([n for entries in wanted.values() for n in entries.values()]))
    found = {
        name: parts[name].selector.take({figure: next(values) for figure in entries})
        for name, entries in wanted.items()
    }
    return {name: told for name, told in found.items() if told}


def forget_counts(model: nn.Module) -> None:
    """Begin to count anew."""
    for layer in routed_layers(model).values():
        layer.record.counters.reset()


def take_counts(model: nn.Module, add_up: Total = own) -> Counts:
    """(layer -> domain -> tokens that chose each expert by id, domain -> tokens) since the last
    call.

    Counted in steps whose domains are known. A token that passes a layer in several rounds chooses
    in each, but is one token. ``add_up``: sums what each worker counted.
    """
    counts: dict[str, dict[str, list[int]]] = {}
    tokens: dict[str, int] = {}
    parts = routed_layers(model)
    if not parts:
        return counts, tokens
    taken = [
        layer.record.counters.take_choices(layer.live).to(next(layer.parameters()).device)
        for layer in parts.values()
    ]
    flat = add_up(torch.cat([counted.reshape(-1) for counted in taken]))
    summed = flat.split([counted.numel() for counted in taken])
    for (name, layer), total, counted in zip(parts.items(), summed, taken, strict=True):
        rows = total.view_as(counted).tolist()
        by_domain = zip(layer.record.counters.domains, rows, strict=True)
        seen = {domain: row for domain, row in by_domain if row[-1]}
        if seen:
            counts[name] = {domain: _by_id(layer, row[:-1]) for domain, row in seen.items()}
            tokens = {domain: row[-1] for domain, row in seen.items()}
    return counts, tokens


def _by_id(layer: RoutedLayer, values: list[Any]) -> list[Any]:
    """Values of the live experts as a list by id, 0 for those that are gone."""
    known = dict(zip(layer.ids, values, strict=True))
    return [known.get(number, 0 * values[0]) for number in range(layer.born)]
