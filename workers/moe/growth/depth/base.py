"""The contract of schedules: how many experts each layer has over depth. Pure arithmetic, no torch.

``SCHEDULES`` is filled by the package; it lies here so that a schedule can hold another one.
Letters: L layers, E the model's number of experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from workers.contract import InputError

SCHEDULES: dict[str, type] = {}
"""Schedules by name."""

Maps = Sequence[tuple[int, int]]
"""Inputs and outputs of each layer."""

Active = Callable[[int], float]
"""Experts that a token runs through on average, of so many live ones."""


def every(experts: int) -> float:
    """All experts run for every token."""
    return float(experts)


class Schedule:
    """Experts per layer from the largest number: ``round(min + (max - min) f(p))``, never below 1.

    ``p`` in 0..1 is the layer's relative depth (0 for a single layer). More experts in never
    give fewer in any layer, so growth by a schedule keeps every expert.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings shared by the schedules that vary over depth."""

        kind: str
        minimum: int = 1
        """Experts of the smallest layer."""
        budget: Literal["depth", "layer"] = "depth"
        """``depth``: one expert width in all layers, such that together they cost their dense
        layers, so that parameters move with the experts; ``layer``: a width for each layer, such
        that each costs its own dense layer, so that they do not."""

        def __post_init__(self) -> None:
            if self.minimum < 1:
                raise ValueError(f"minimum must be at least 1, got {self.minimum}")

    least_layers: ClassVar[int] = 1
    """Layers without which the form cannot be told from its smallest layer."""

    def __init__(self, config: Any) -> None:
        self.minimum: int = config.minimum
        self.one_width: bool = config.budget == "depth"

    def share(self, index: int, layers: int) -> float:
        """f(p) of layer ``index``, in 0..1."""
        raise NotImplementedError

    def count(self, index: int, layers: int, experts: int) -> int:
        """Experts of layer ``index`` of ``layers`` when the largest layer has ``experts``."""
        low = min(self.minimum, experts)
        return max(1, math.floor(low + (experts - low) * self.share(index, layers) + 0.5))

    def counts(self, experts: int, maps: Maps, active: Active) -> list[int]:
        """Experts of every layer when the model is said to have ``experts``.

        For schedules that look at what layers cost; the others say ``count``.
        """
        return [self.count(index, len(maps), experts) for index in range(len(maps))]

    def check(self, layers: int) -> None:
        """Raise InputError where this is no schedule for so many layers."""
        if 0 < layers < self.least_layers:
            raise InputError(
                f"schedule {type(self).__name__} needs at least {self.least_layers} routed "
                f"layers and the head has {layers}: what it gives them would not depend on the "
                "experts asked for; add hidden layers, or use schedule 'constant' or 'uniform'"
            )
