"""How wide a layer's experts are, so that the layer keeps to its parameter budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workers.moe.experts.shared import SharedForms
from workers.moe.growth.budget import Size
from workers.moe.growth.schedules import Place


@dataclass(frozen=True, slots=True)
class Widths:
    """Widths of one layer's experts; all of them, or those one token passes, share the budget."""

    config: Any
    """The layer's."""
    inputs: int
    outputs: int
    place: Place
    final: int
    """The model's final number of experts."""
    active: Callable[[int], float]
    """Experts that one token passes, of so many."""
    shared: SharedForms

    def of(self, cls: Any, form: Any, experts: int, copies: int) -> int:
        """Width of experts of a form when the model is said to have ``experts``.

        ``copies``: experts of the layer that were copied for a domain.
        """
        sizes = [self._sharing(size) for size in self._sizes(experts, copies)]
        if self.shared:  # their size is that of the start, however many are live
            gated = self.config.shared_gate == "sigmoid"
            spent = [self.shared.cost(size, gated) for size in self._sizes(self.final, copies)]
            sizes = [size._replace(spent=n) for size, n in zip(sizes, spent, strict=True)]
        width: int = cls.width_for(form, sizes)
        return width

    @property
    def own(self) -> Size:
        """The layer's size, with its share of the final number of experts."""
        return Size(self.inputs, self.outputs, self.place.count(self.final))

    def _sizes(self, experts: int, copies: int) -> list[Size]:
        return self.place.sizes(self.inputs, self.outputs, experts, copies)

    def _sharing(self, size: Size) -> Size:
        """With those of a layer's experts that share the budget of one dense layer."""
        experts = size.experts
        if self.config.match_active:
            experts = max(1, math.ceil(min(self.active(experts), experts)))
        alike = 0 if self.shared else int(self.config.shared)
        return size._replace(experts=experts + alike)
