"""The contract of losses on a layer: one pass of tokens -> a scalar. Letters: T tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from workers.moe.routed import Routed


class Loss(ABC):
    """Added, weighted, to the task's loss in training; reported as ``loss/<name>/<layer>``.

    Losses of a layer with one name are added up.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Base of the settings of losses."""

        kind: str
        weight: float = 1.0
        """Factor of the loss; not negative."""

        def __post_init__(self) -> None:
            if self.weight < 0:
                raise ValueError(f"weight must not be negative, got {self.weight}")

    def __init__(self, config: Any) -> None:
        self.config = config
        self.weight: float = config.weight
        self.name: str = config.kind.rpartition(":")[2]

    @abstractmethod
    def loss(self, routed: Routed) -> Tensor | None:
        """A scalar, without its weight; None where there is nothing to learn from."""
