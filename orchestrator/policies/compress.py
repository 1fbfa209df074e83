"""When vectors stand in for the lesser experts of a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.policies.base import Policy, Proposal, View
from orchestrator.policies.lane_checks import late, routed
from workers.contract import Json, LaneSettings
from workers.edits import CompressExperts
from workers.tables import Problem


class Compress(Policy):
    """Compresses experts at the start of a stage, once (Compressed Experts, arXiv 2503.00634).

    What follows is the fine-tuning: vectors and main experts train on.
    """

    proposes: ClassVar[tuple[str, ...]] = ("compress_experts",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """How many experts go on running, and from when."""

        kind: str = "compress"
        main: int = 1
        """k_m: experts of a token that run; the paper finds half of those chosen best."""
        from_stage: int = 1
        """Stage (from 0) at whose start it happens."""

        def __post_init__(self) -> None:
            if self.main < 1 or self.from_stage < 0:
                raise ValueError(
                    "main must be at least 1 and from_stage not negative, got "
                    f"{self.main} and {self.from_stage}"
                )

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """There must be experts, and more of them chosen than are to run."""
            layers = routed(lane)
            if not layers:
                allowed = "use routed layers in the model, or take this policy out"
                return [Problem("kind", "the model has no experts under a router", allowed)]
            found = late(self.from_stage, lane)
            known = [k for layer in layers if (k := _k(layer)) is not None]
            if known and self.main >= min(known):
                what = f"{self.main} of {min(known)} experts that a token chooses"
                found.append(Problem("main", what, "run fewer than are chosen in any layer"))
            return found

    config: Config

    @property
    def first_stage(self) -> int:
        return self.config.from_stage

    def propose(self, view: View, memory: Json) -> Proposal:
        if view.n or view.stage.index < self.config.from_stage or memory:
            return (), memory
        common = view.edit(policy="compress", trigger="stage start")
        return (CompressExperts(**common, main=self.config.main),), True


def _k(layer: object) -> int | None:
    """Experts that a token chooses, where the selector's config says it."""
    found = getattr(getattr(layer, "selector", None), "k", None)
    return found if isinstance(found, int) else None
