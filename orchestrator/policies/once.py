"""A policy that makes one edit, once, at the start of a stage."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.policies.base import EditFields, Policy, Proposal, View
from orchestrator.policies.lane_checks import late, unrouted
from workers.contract import Json, LaneSettings
from workers.edits import Edit
from workers.tables import Problem


class Once(Policy):
    """Base of policies with one edit, made at the start of the stage ``from_stage``."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """From when."""

        kind: str
        from_stage: int = 1
        """Stage (from 0) at whose start it happens."""

        def __post_init__(self) -> None:
            if self.from_stage < 0:
                raise ValueError(f"from_stage must not be negative, got {self.from_stage}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """There must be experts, and such a stage."""
            return unrouted(lane) or late(self.from_stage, lane)

    config: Config

    def edit(self, fields: EditFields) -> Edit:
        """The edit."""
        raise NotImplementedError

    @property
    def first_stage(self) -> int:
        return self.config.from_stage

    def propose(self, view: View, memory: Json) -> Proposal:
        if view.n or view.stage.index < self.config.from_stage or memory:
            return (), memory
        fields = view.edit(policy=self.config.kind, trigger="stage start")
        return (self.edit(fields),), True
