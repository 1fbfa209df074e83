"""When adaptive routers take over from their linear teachers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from orchestrator.policies.base import Policy, Proposal, View
from orchestrator.policies.lane_checks import late, routed, unable
from workers.contract import Json, LaneSettings
from workers.edits import AdaptRouter
from workers.tables import Problem, lookup


class AdaptRouters(Policy):
    """Adaptive routers take over at the start of a stage, once (DES-MoE, arXiv 2509.16882).

    To stand before the policies of phases and masks, so that they act on the new routers.
    """

    proposes: ClassVar[tuple[str, ...]] = ("adapt_router",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """When it happens."""

        kind: str = "adapt_router"
        from_stage: int = 0
        """Stage (from 0) at whose start they take over."""

        def __post_init__(self) -> None:
            if self.from_stage < 0:
                raise ValueError(f"from_stage must not be negative, got {self.from_stage}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """There must be a router that can take over."""
            from workers.moe import ROUTERS

            found = unable(lane) or late(self.from_stage, lane)
            routers: list[Any] = [lookup(ROUTERS, x.router.kind, "router") for x in routed(lane)]
            if not found and not any(router.adapts for router in routers):
                allowed = "use router adaptive in the model, or take this policy out"
                found = [Problem("kind", "no router of the model can take over", allowed)]
            return found

    config: Config

    @property
    def first_stage(self) -> int:
        return self.config.from_stage

    def propose(self, view: View, memory: Json) -> Proposal:
        done = view.model.latest(AdaptRouter) is not None
        if view.n > 0 or view.stage.index < self.config.from_stage or done:
            return (), memory
        return (AdaptRouter(**view.edit(policy="adapt_router", trigger="stage start")),), memory
