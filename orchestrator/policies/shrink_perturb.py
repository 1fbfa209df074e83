"""When parameters are shrunk and perturbed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.policies.base import EditFields
from orchestrator.policies.recurring import Recurring
from workers.edits import ShrinkPerturb


class ShrinksPerturbs(Recurring):
    """Shrinks parameters and adds an untrained model's (shrink and perturb, arXiv 1910.08475)."""

    proposes: ClassVar[tuple[str, ...]] = ("shrink_perturb",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Recurring.Config):
        """By how much, of what, and how often."""

        kind: str = "shrink_perturb"
        shrink: float = 0.4
        """Factor of the parameters (lambda), 0 to 1."""
        perturb: float = 0.1
        """Factor of an untrained model's parameters, at least 0."""
        parts: tuple[str, ...] = ()
        """Parts of the model (first words of parameters' names, ``head``); none = all."""

        def __post_init__(self) -> None:
            # super() has no cell to look in here: a dataclass with slots is a second class.
            Recurring.Config.__post_init__(self)
            if not 0 <= self.shrink <= 1:
                raise ValueError(f"shrink must be from 0 to 1, got {self.shrink}")
            if self.perturb < 0:
                raise ValueError(f"perturb must not be negative, got {self.perturb}")

    config: Config

    def edit(self, fields: EditFields) -> ShrinkPerturb:
        own = self.config
        return ShrinkPerturb(**fields, shrink=own.shrink, perturb=own.perturb, parts=own.parts)
