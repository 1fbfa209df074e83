"""Which experts each domain may train, as the config says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from orchestrator.policies.base import Policy, Proposal, View
from orchestrator.policies.correlation import Rows
from orchestrator.policies.lane_checks import domains_from, domains_told, late, unable
from workers.contract import Json, LaneSettings
from workers.edits import Grow, RefreshMask
from workers.tables import Problem


class FixedMasks(Policy):
    """Experts by domain as the config says, from the start of a stage on.

    In a layer that has none of a domain's experts (a schedule may give it fewer) the domain
    trains all of them.
    """

    proposes: ClassVar[tuple[str, ...]] = ("refresh_mask",)
    by_domain: ClassVar[bool] = True

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Who trains what."""

        kind: str = "fixed_masks"
        experts: dict[str, list[int]] = field(default_factory=dict)
        """Domain -> experts that it trains, in every layer."""
        from_stage: int = 0
        """First stage (from 0) that is trained under the masks."""

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Every domain and every expert named must be there, and none left out."""
            found = unable(lane) or late(self.from_stage, lane) or domains_told(lane)
            return found or [*self._domains(lane), *self._experts(lane)]

        def _domains(self, lane: LaneSettings) -> list[Problem]:
            known = ", ".join(sorted(lane.domains))
            found = [
                Problem(f"experts.{domain}", "no such domain", f"allowed: {known}")
                for domain in self.experts
                if domain not in lane.domains
            ]
            wanted = domains_from(self.from_stage, lane.tasks)
            missing = [name for name in wanted if name not in self.experts]
            if missing:
                allowed = "every domain needs at least one expert"
                found.append(Problem("experts", f"missing: {', '.join(missing)}", allowed))
            return found

        def _experts(self, lane: LaneSettings) -> list[Problem]:
            live = lane.final_experts or lane.max_experts or lane.experts or 1
            found = []
            for domain, experts in self.experts.items():
                absent = [expert for expert in experts if not 0 <= expert < live]
                if absent or not experts:
                    what = f"experts {absent} do not exist" if absent else "no expert"
                    allowed = f"the model has experts 0 to {live - 1}; give at least one"
                    found.append(Problem(f"experts.{domain}", what, allowed))
            return found

    config: Config

    @property
    def first_stage(self) -> int:
        return self.config.from_stage

    def propose(self, view: View, memory: Json) -> Proposal:
        if view.n > 0 or view.stage.index < self.config.from_stage:
            return (), memory
        grows = view.decides(Grow)
        masks: dict[str, Rows] = {}
        fallback: dict[str, Rows] = {}
        for layer, shape in view.model.layers.items():
            gone = view.removed(layer)
            rows = [
                [int(expert in named and expert not in gone) for expert in range(shape.born)]
                for named in self.config.experts.values()
            ]
            spare = [row if any(row) else [1] * shape.born for row in rows]
            masks[layer] = rows if grows else spare
            if masks[layer] != spare:
                fallback[layer] = spare
        mask = view.model.latest(RefreshMask)
        if mask is not None and mask.masks == masks:
            return (), memory
        edit = RefreshMask(
            **view.edit(policy="fixed_masks", trigger="stage start"),
            version=1 if mask is None else mask.version + 1,
            domains=tuple(self.config.experts),
            masks=masks,
            fallback=fallback,
        )
        return (edit,), memory
