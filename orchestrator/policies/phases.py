"""Which parts of the model a stage trains when: pure deciders of ``SetPhase`` edits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from orchestrator.policies.growth import Progress
from workers.contract import Cause, Role, SetPhase, derive_seed


class PhasePolicy(Protocol):
    """Decides phases from progress."""

    def propose(self, progress: Progress) -> tuple[SetPhase, ...]: ...


class NoPhases:
    """Everything trains all the time."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str = "none"

    def __init__(self, config: Config) -> None:
        self.config = config

    def propose(self, progress: Progress) -> tuple[SetPhase, ...]:
        return ()


class ThreePhases:
    """Warm-up, stabilisation, consolidation within each stage (DES-MoE, arXiv 2509.16882).

    Warm-up trains router and backbone, stabilisation router and experts, consolidation experts
    alone (equation 11). The shares are of a stage's intervals, rounded up.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str = "three"
        warmup_until: float = 0.2
        """T1: share of the stage after which warm-up ends; 0 = no warm-up."""
        stabilise_until: float = 0.7
        """T2: share of the stage after which stabilisation ends; 1 = no consolidation."""
        warmup_train_experts: bool = False
        """Train the experts in the warm-up too, as the paper's first figure says; its equation
        11 does not."""
        adapt_router: bool = True
        """Adaptive routers take over at the start of the first of these stages."""
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

    def __init__(self, config: Config) -> None:
        self.config = config

    def propose(self, progress: Progress) -> tuple[SetPhase, ...]:
        if progress.stage.index < self.config.from_stage:
            return ()
        starts = self.starts(progress.stage.intervals)
        due = [name for name, n in starts.items() if n == progress.n]
        if not due:
            return ()
        name, stage = due[-1], progress.stage
        return (
            SetPhase(
                id=f"{stage.id}-{progress.edits}",
                stage=stage.id,
                after_interval=progress.n,
                phase=name,
                trains=self._trains(name),
                adapt=self.config.adapt_router and progress.n == 0,
                seed=derive_seed(stage.seed, stage.id, "edit", progress.edits),
                cause=Cause(
                    policy="three",
                    trigger="progress",
                    figures={"share": progress.n / stage.intervals},
                ),
            ),
        )

    def starts(self, intervals: int) -> dict[str, int]:
        """Phase -> interval after which it starts."""
        ends = [self.config.warmup_until, self.config.stabilise_until]
        first, second = (math.ceil(share * intervals - 1e-9) for share in ends)
        starts = {"warmup": 0} if first > 0 else {}
        starts["stabilisation"] = first
        if self.config.stabilise_until < 1.0:
            starts["consolidation"] = second
        return starts

    def _trains(self, phase: str) -> tuple[Role, ...]:
        if phase == "warmup":
            extra: tuple[Role, ...] = ("experts",) if self.config.warmup_train_experts else ()
            return ("router", "backbone", *extra)
        return ("router", "experts") if phase == "stabilisation" else ("experts",)
