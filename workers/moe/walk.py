"""What routers hand from layer to layer within one forward of a model.

Knows no layer and no router in particular. Letters: T tokens, H numbers handed on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(slots=True, eq=False)
class Walk:
    """One way through layers, of which each hears what the router before it handed on.

    It walks with the forward: the first layer of the way finds nothing, the last one leaves
    nothing. A layer that is in no model is a way of its own.
    """

    state: Tensor | None = None
    """[T, H], by the router of the layer (or round) before; None = there is none."""


def join(modules: Iterable[nn.Module]) -> None:
    """Make one way of all routed layers in these modules, in the order in which tokens pass them.

    Their routers share what they have in common (``Router.share``). Called once a model is built.
    """
    layers = [part for module in modules for part in outermost(module)]
    walk = Walk()
    for place, layer in enumerate(layers):
        layer.walk = walk
        layer.begins, layer.ends = place == 0, place + 1 == len(layers)
        for router in layer.routers:
            router.share(layers[0].routers[0])


def outermost(module: nn.Module) -> list[Any]:
    """Parts with routers, in module order; those inside another one are its own business."""
    if hasattr(module, "routers"):
        return [module]
    return [part for child in module.children() for part in outermost(child)]
