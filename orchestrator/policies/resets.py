"""When parameters are drawn anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.policies.base import EditFields
from orchestrator.policies.recurring import Recurring
from workers.edits import Reset


class Resets(Recurring):
    """Draws the model, or parts of it, anew: full and head resets.

    Primacy bias in deep reinforcement learning (Nikishin et al., arXiv 2205.07802) resets last
    layers; with no ``parts`` each stage begins with an untrained model.
    """

    proposes: ClassVar[tuple[str, ...]] = ("reset",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Recurring.Config):
        """What, and how often."""

        kind: str = "reset"
        parts: tuple[str, ...] = ()
        """Parts of the model (first words of parameters' names, ``head``); none = all."""

    config: Config

    def edit(self, fields: EditFields) -> Reset:
        return Reset(**fields, parts=self.config.parts)
