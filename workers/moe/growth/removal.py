"""Removal of experts from routed layers: checked first, then done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from workers.contract import InputError
from workers.moe.routed import routed_layers


def plan_removal(module: nn.Module, experts: Mapping[str, Sequence[int]]) -> Callable[[], None]:
    """Check that the layers can go on without these experts; the result takes them out.

    ``experts``: layer -> ids. Those that are gone already stay gone. Raises InputError, with
    nothing changed, on what was never there and where too few would be left.
    """
    parts = routed_layers(module)
    leaving: dict[str, list[int]] = {}
    for name, ids in experts.items():
        if name not in parts:
            have = ", ".join(parts) or "none"
            raise InputError(f"removal of experts: no routed layer {name!r}; the model has {have}")
        layer = parts[name]
        absent = sorted(number for number in set(ids) if not 0 <= number < layer.born)
        if absent:
            raise InputError(
                f"removal of experts, layer {name!r}: there were never experts {absent}; it has "
                f"{', '.join(map(str, layer.births))}"
            )
        leaving[name] = [number for number in layer.births if number in ids]
        if leaving[name]:
            try:
                layer.check_removal(leaving[name])
            except InputError as error:
                raise InputError(f"removal of experts, layer {name!r}: {error}") from error

    def remove() -> None:
        for name, ids in leaving.items():
            for number in ids:
                parts[name].remove(number)

    return remove
