"""Policies that make one edit again and again, every so many stages or intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.policies.base import EditFields, Policy, Proposal, View
from workers.contract import Json, LaneSettings
from workers.edits import Edit
from workers.tables import Problem


class Recurring(Policy):
    """Base of policies with the same edit every so many stages or intervals.

    By stages it is made at a stage's start, before its data are seen; by intervals, counted over
    the whole lane, at an interval's end. What falls on a stage's end is made at the start of the
    next one, so that the model which is scored and saved is the one that was trained; at the
    stream's end it is left out.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """How often."""

        kind: str
        every: int = 1
        """Stages or intervals between two edits."""
        unit: Literal["stages", "intervals"] = "stages"
        """What ``every`` counts."""

        def __post_init__(self) -> None:
            if self.every < 1:
                raise ValueError(f"every must be at least 1, got {self.every}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """What is changed behind a mask's back must not be masked."""
            return unmasked(lane)

    config: Any

    def edit(self, fields: EditFields) -> Edit:
        """The edit."""
        raise NotImplementedError

    @property
    def first_stage(self) -> int:
        return self.config.every if self.config.unit == "stages" else 0

    def foreseeable(self, steps_per_stage: int | None) -> bool:
        return True

    def propose(self, view: View, memory: Json) -> Proposal:
        if not self._due(view):
            return (), memory
        figures = {"stage": float(view.stage.index), "interval": float(view.n)}
        fields = view.edit(policy=self.config.kind, trigger=self.config.unit, figures=figures)
        return (self.edit(fields),), memory

    def _due(self, view: View) -> bool:
        """Whether it is made now."""
        every, index, intervals = self.config.every, view.stage.index, view.stage.intervals
        if view.n == intervals:
            return False
        if self.config.unit == "stages":
            return view.n == 0 and index > 0 and index % every == 0
        passed = index * intervals + view.n
        return passed > 0 and passed % every == 0


def unmasked(lane: LaneSettings) -> list[Problem]:
    """Why weights must not be changed by hand in this lane."""
    if "refresh_mask" not in lane.proposes:
        return []
    allowed = "it would change experts that masks keep for other domains: take one of the two out"
    return [Problem("kind", "policies of this lane mask experts", allowed)]
