"""When dormant units are made new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from orchestrator.policies.base import EditFields
from orchestrator.policies.recurring import Recurring, unmasked
from workers.contract import LaneSettings
from workers.edits import RecycleDormant
from workers.tables import Problem


class ReDo(Recurring):
    """Makes dormant units new at intervals (ReDo, Sokar et al., arXiv 2302.12902, algorithm 1).

    They are judged by a sample of the stage's training data, alike on all workers.
    """

    proposes: ClassVar[tuple[str, ...]] = ("recycle_dormant",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Recurring.Config):
        """How dormant, and how often."""

        kind: str = "redo"
        unit: Literal["stages", "intervals"] = "intervals"
        """What ``every`` counts."""
        tau: float = 0.025
        """Mean activity of a unit, as a share of its layer's, up to which it is dormant."""

        def __post_init__(self) -> None:
            # super() has no cell to look in here: a dataclass with slots is a second class.
            Recurring.Config.__post_init__(self)
            if self.tau < 0:
                raise ValueError(f"tau must not be negative, got {self.tau}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """The model must tell its units."""
            from workers.units.checks import unfit

            return unmasked(lane) or unfit(lane)

    config: Config

    def edit(self, fields: EditFields) -> RecycleDormant:
        return RecycleDormant(**fields, tau=self.config.tau)
