"""Growth where every expert is needed."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.policies.base import View
from orchestrator.policies.growing import Evidence, Triggered, Where
from orchestrator.policies.lane_checks import unrouted
from orchestrator.policies.signals import USAGE_ENTROPY, usage_entropies
from workers.contract import Json, LaneSettings
from workers.tables import Problem


class RoutingSaturation(Triggered):
    """Grows where a layer's experts are used evenly: none of them is idle, so none can be taken.

    Evidence where ``H(f) / ln E >= share`` in the most evenly used layer (``every``: in all of
    them), f the experts' mean gate weights over the interval. One expert alone counts as 1.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Triggered.Config):
        """How evenly, and where."""

        kind: str = "routing_saturation"
        share: float = 0.95
        """Usage entropy from which a layer is saturated, above 0 and at most 1."""
        patience: int = 3
        """Decisions in a row that must see evidence."""
        every: bool = False
        """Whether all routed layers must be saturated."""
        layers: Where = "usage_entropy"
        """Which layers grow: see the other triggers; here the most evenly used one."""

        def __post_init__(self) -> None:
            Triggered.Config.__post_init__(self)
            if not 0.0 < self.share <= 1.0:
                raise ValueError(f"share must be above 0 and at most 1, got {self.share}")

        @property
        def watched(self) -> tuple[str, ...]:
            return (USAGE_ENTROPY,)

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """There must be routers."""
            return unrouted(lane) or Triggered.Config.problems(self, lane)

    config: Config

    def look(self, view: View, memory: Json) -> tuple[Evidence | None, Json]:
        entropies = usage_entropies(view)
        if not entropies:
            return None, memory
        level = (min if self.config.every else max)(entropies.values())
        if level < self.config.share:
            return None, memory
        figures = {f"{USAGE_ENTROPY}/{layer}": value for layer, value in entropies.items()}
        return Evidence("saturated", figures), memory
