"""When routers are fitted without gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from orchestrator.policies.base import Policy, Proposal, View
from orchestrator.policies.lane_checks import domains_told, late, routed, unable
from workers.contract import Json, LaneSettings
from workers.edits import FitRouter
from workers.edits.fit_router import Targets
from workers.tables import Problem, lookup


class FitRouters(Policy):
    """Routers are fitted to probe samples of each stage, at its start or its end (edit fit_router).

    To stand behind the policies of growth, so that new experts are fitted too.
    """

    proposes: ClassVar[tuple[str, ...]] = ("fit_router",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """When, and to what."""

        kind: str = "fit_routers"
        at: Literal["start", "end"] = "end"
        """Before the stage's first interval, or after its last one."""
        targets: Targets = "domains"
        """See edit ``fit_router``."""
        layers: tuple[str, ...] | None = None
        """Names of the routed layers; None = all of them."""
        from_stage: int = 0
        """First stage (from 0) in which they are fitted."""

        def __post_init__(self) -> None:
            if self.from_stage < 0:
                raise ValueError(f"from_stage must not be negative, got {self.from_stage}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """There must be routers with such a fit, and samples that have such targets."""
            from workers.moe import ROUTERS

            found = unable(lane) or late(self.from_stage, lane)
            if found:
                return found
            if lane.acts:
                allowed = "observations have no labels, domains or losses: take this policy out"
                return [Problem("kind", "the lane learns from what its own model does", allowed)]
            if lane.tokens and self.targets == "labels":
                allowed = "every token has a label of its own: fit to domains, losses or errors"
                return [Problem("targets", "got 'labels' with a language model", allowed)]
            table: dict[str, Any] = dict(ROUTERS)
            routers: list[Any] = [lookup(ROUTERS, x.router.kind, "router") for x in routed(lane)]
            if not any(router.can_fit(self.targets) for router in routers):
                kinds = [kind for kind, cls in table.items() if cls.can_fit(self.targets)]
                allowed = f"use router {' or '.join(kinds)}"
                return [Problem("targets", f"no router can be fitted to {self.targets}", allowed)]
            return domains_told(lane) if self.targets == "domains" else []

    config: Config

    @property
    def first_stage(self) -> int:
        return self.config.from_stage

    def propose(self, view: View, memory: Json) -> Proposal:
        config = self.config
        when = 0 if config.at == "start" else view.stage.intervals
        if view.n != when or view.stage.index < config.from_stage:
            return (), memory
        fields = view.edit(policy="fit_routers", trigger=f"stage {config.at}")
        return (FitRouter(**fields, targets=config.targets, layers=config.layers),), memory
