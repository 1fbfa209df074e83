"""Experts that stop learning: which they are, and how they are kept from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from workers.contract import InputError
from workers.edits.base import Change
from workers.moe.domains.specialise import enforce
from workers.moe.routed import newest, routed_layers


def plan_freeze(module: nn.Module) -> Callable[[], Change]:
    """Check that old experts can be told from new ones and frozen; the result freezes them."""
    old = {name: _older(layer) for name, layer in routed_layers(module).items()}
    old = {name: numbers for name, numbers in old.items() if numbers}
    if not old:
        raise InputError(
            "freezing of old experts: no routed layer has grown yet; place the policy after one "
            "that grows"
        )
    for name, numbers in old.items():
        for number in numbers:
            list(routed_layers(module)[name].parameters_of(number))  # refuses what it cannot

    def change() -> Change:
        for name, numbers in old.items():
            layer: Any = routed_layers(module)[name]
            layer.frozen |= numbers
        enforce(module)
        return Change()

    return change


def _older(layer: Any) -> frozenset[int]:
    """Ids of the experts that are older than the latest growth; none where nothing was added."""
    new = newest(layer.births.values())
    if not any(new):
        return frozenset()
    return frozenset(n for n, is_new in zip(layer.births, new, strict=True) if not is_new)
