"""The units of a model, by name."""

from __future__ import annotations

from torch import nn

from workers.moe.routed import RoutedLayer
from workers.units.hidden import TellsUnits
from workers.units.maps import between, inside
from workers.units.side import Units


def units_of(model: nn.Module) -> dict[str, Units]:
    """Name -> units, in the order of the model's modules.

    ``<module>.<name>`` of those that a module tells, ``<layer>.experts.<id>`` of those inside
    experts. What they are made of are the model's own parameters as they are now: an edit may
    replace them.
    """
    found: dict[str, Units] = {}
    inner: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in inner:
            continue
        if isinstance(module, RoutedLayer):
            inner.update(module.modules())
            parts = list(inside(module)) if hasattr(module, "shared") else []
        elif isinstance(module, TellsUnits):
            told = module.hidden_units().items()
            parts = [(key, units) for key, hidden in told if (units := between(hidden)) is not None]
        else:
            continue
        found |= {f"{name}.{key}" if name else key: units for key, units in parts}
    return found
