"""How a module tells its units. Knows nothing of what they are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """Units between two maps, as the module tells them that passes its input through both."""

    made_by: nn.Module
    """A linear map, a convolution or a layer of experts: unit j is its output j."""
    read_by: tuple[nn.Module, ...]
    """All that reads the units: linear maps, convolutions, layers of experts."""
    activation: str = "relu"
    """What stands between, by its name in ``side.ACTIVITIES``."""
    norm: nn.LayerNorm | None = None
    """Layer norm over the units before the activation."""
    gain: float | None = None
    """Of the orthogonal draw without biases that ``made_by`` starts from; None = torch's own."""
    seen_in: nn.Module | None = None
    """Module in whose output the units are seen, behind their activation; None = ``made_by`` or
    the norm, before it."""


@runtime_checkable
class TellsUnits(Protocol):
    """A module that tells its units. Those of modules inside it they tell themselves, and those
    inside experts follow from what these are (``Expert.feed_forward``)."""

    def hidden_units(self) -> dict[str, Hidden]:
        """Name within the module -> units."""
