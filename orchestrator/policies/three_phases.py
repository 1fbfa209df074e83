"""Which parts of the model a stage trains when: warm-up, stabilisation, consolidation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.policies.base import Policy, Proposal, View
from orchestrator.policies.lane_checks import late, unable
from workers.contract import Json, LaneSettings
from workers.edits import ROLES, Role, SetPhase
from workers.tables import Problem


class ThreePhases(Policy):
    """Warm-up, stabilisation, consolidation within each stage (DES-MoE, arXiv 2509.16882).

    Warm-up trains router and backbone, stabilisation router and experts, consolidation experts
    alone (equation 11). The shares are of a stage's intervals, rounded up.
    """

    proposes: ClassVar[tuple[str, ...]] = ("set_phase",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str = "three_phases"
        warmup_until: float = 0.2
        """T1: share of the stage after which warm-up ends; 0 = no warm-up."""
        stabilise_until: float = 0.7
        """T2: share of the stage after which stabilisation ends; 1 = no consolidation."""
        warmup_train_experts: bool = False
        """Train the experts in the warm-up too, as the paper's first figure says; its equation
        11 does not. No domain is kept from any expert then: the warm-up only counts."""
        warmup_train_backbone: bool = True
        """Train the backbone in the warm-up, as equation 11 says; without, the warm-up trains the
        router alone, and the backbone stays as it was for good."""
        from_stage: int = 0
        """First stage (from 0) with phases; earlier ones train everything."""

        def __post_init__(self) -> None:
            if not 0.0 <= self.warmup_until < self.stabilise_until <= 1.0:
                raise ValueError(
                    "phases out of order: need 0 <= warmup_until < stabilise_until <= 1, got "
                    f"{self.warmup_until} and {self.stabilise_until}"
                )
            if self.from_stage < 0:
                raise ValueError(f"from_stage must not be negative, got {self.from_stage}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Each phase must last at least one interval."""
            found = unable(lane) or late(self.from_stage, lane)
            starts = list(starts_of(self, lane.intervals).values())
            if starts == sorted(set(starts)) and starts[-1] < lane.intervals:
                return found
            what = (
                f"phases out of order: they would start after the intervals {starts} of "
                f"{lane.intervals}"
            )
            allowed = "raise training.intervals, or move warmup_until and stabilise_until apart"
            return [*found, Problem("stabilise_until", what, allowed)]

    config: Config

    @property
    def first_stage(self) -> int:
        return self.config.from_stage

    def propose(self, view: View, memory: Json) -> Proposal:
        stage, config = view.stage, self.config
        starts = starts_of(config, stage.intervals)
        due = [name for name, n in starts.items() if n == view.n]
        if stage.index < config.from_stage or not due:
            return (), memory
        name = due[-1]
        share = {"share": view.n / stage.intervals}
        edit = SetPhase(
            **view.edit(policy="three_phases", trigger="progress", figures=share),
            phase=name,
            trains=self._trains(name),
            counts_only=name == "warmup",
        )
        return (edit,), memory

    @property
    def trains(self) -> tuple[tuple[Role, ...], ...]:
        phases = map(self._trains, starts_of(self.config, self.facts.intervals))
        return (ROLES, *phases) if self.config.from_stage else tuple(phases)

    def _trains(self, phase: str) -> tuple[Role, ...]:
        if phase == "warmup":
            extra: tuple[tuple[Role, bool], ...] = (
                ("backbone", self.config.warmup_train_backbone),
                ("experts", self.config.warmup_train_experts),
            )
            return ("router", *(role for role, trained in extra if trained))
        return ("router", "experts") if phase == "stabilisation" else ("experts",)


def starts_of(config: ThreePhases.Config, intervals: int) -> dict[str, int]:
    """Phase -> interval after which it starts, in a stage of so many."""
    ends = [config.warmup_until, config.stabilise_until]
    first, second = (math.ceil(share * intervals - 1e-9) for share in ends)
    starts = {"warmup": 0} if first > 0 else {}
    starts["stabilisation"] = first
    if config.stabilise_until < 1.0:
        starts["consolidation"] = second
    return starts
