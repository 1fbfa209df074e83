"""When the input maps of experts are factorised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from orchestrator.policies.base import EditFields
from orchestrator.policies.lane_checks import routed
from orchestrator.policies.once import Once
from workers.contract import LaneSettings
from workers.edits import FactorLatent
from workers.tables import Problem, lookup


class FactorExperts(Once):
    """Turns bottleneck experts into shared-latent ones, once (MoLAE, arXiv 2503.23100)."""

    proposes: ClassVar[tuple[str, ...]] = ("factor_latent",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Once.Config):
        """How small, and when."""

        kind: str = "factor_latent"
        rank: int = 16
        """R: numbers of the latent that all experts of a layer read."""

        def __post_init__(self) -> None:
            # super() has no cell to look in here: a dataclass with slots is a second class.
            Once.Config.__post_init__(self)
            if self.rank < 1:
                raise ValueError(f"rank must be at least 1, got {self.rank}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """There must be experts whose input maps can be factorised."""
            found = Once.Config.problems(self, lane)
            layers = routed(lane)
            kinds = {kind for layer in layers for kind in _unfactored(layer, self.rank)}
            if kinds:
                what = f"experts {', '.join(sorted(kinds))} have no form with a shared projection"
                found.append(Problem("kind", what, "use expert bottleneck in all routed layers"))
            return found

    config: Config

    def edit(self, fields: EditFields) -> FactorLatent:
        return FactorLatent(**fields, rank=self.config.rank)


def _unfactored(layer: Any, rank: int) -> list[str]:
    """Kinds of experts in a layer that cannot be factorised, as far as its config tells."""
    from workers.moe.experts import EXPERTS

    forms = [getattr(layer, "expert", None), *getattr(layer, "more_experts", ())]
    found: list[str] = []
    for form in forms:
        if form is None:
            continue
        cls: Any = lookup(EXPERTS, form.kind, "expert.kind")
        if isinstance(cls, Problem) or cls.latent_form(form, rank) is None:
            found.append(form.kind)
    return found
