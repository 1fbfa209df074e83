"""Old experts are frozen whenever the model grows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.policies.base import Policy, Proposal, View
from orchestrator.policies.lane_checks import grown_before, routed, unfit_routers
from workers.contract import Json, LaneSettings
from workers.edits import FreezeOld, Grow
from workers.tables import Problem


class FreezeOldExperts(Policy):
    """With each growth all older experts stop learning, their router rows too.

    LLaVA-DyMoE (arXiv 2603.27481) protects so what was learnt before. To stand after the policy
    that grows. Whatever is outside the experts and their rows goes on learning.
    """

    proposes: ClassVar[tuple[str, ...]] = ("freeze_old",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """No settings."""

        kind: str = "freeze_old"

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """There must be growth before it, and rows that can be frozen one by one."""
            return list(self._problems(lane))

        def _problems(self, lane: LaneSettings) -> Iterator[Problem]:
            if not routed(lane):
                allowed = "use routed layers in the model, or take this policy out"
                yield Problem("kind", "the model has no experts under a router", allowed)
            if not grown_before(self, lane):
                allowed = "give a policy that grows, before this one"
                yield Problem("kind", "nothing grows before it is asked", allowed)
            for kind in unfit_routers(lane, "parameters_of"):
                allowed = "use router linear, cosine or adaptive"
                yield Problem("kind", f"router {kind!r} has no parameters of one expert", allowed)

    def propose(self, view: View, memory: Json) -> Proposal:
        if not view.decides(Grow):
            return (), memory
        return (FreezeOld(**view.edit(policy="freeze_old", trigger="growth")),), memory

    def foreseeable(self, steps_per_stage: int | None) -> bool:
        return True
