"""When vectors stand in for the lesser experts of a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.policies.base import EditFields
from orchestrator.policies.lane_checks import routed
from orchestrator.policies.once import Once
from workers.contract import LaneSettings
from workers.edits import CompressExperts
from workers.tables import Problem


class Compress(Once):
    """Compresses experts at the start of a stage, once (Compressed Experts, arXiv 2503.00634).

    What follows is the fine-tuning: vectors and main experts train on.
    """

    proposes: ClassVar[tuple[str, ...]] = ("compress_experts",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Once.Config):
        """How many experts go on running, and from when."""

        kind: str = "compress"
        main: int = 1
        """k_m: experts of a token that run; the paper finds half of those chosen best."""

        def __post_init__(self) -> None:
            # super() has no cell to look in here: a dataclass with slots is a second class.
            Once.Config.__post_init__(self)
            if self.main < 1:
                raise ValueError(f"main must be at least 1, got {self.main}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """There must be experts, and more of them chosen than are to run."""
            found = Once.Config.problems(self, lane)
            known = [k for layer in routed(lane) if (k := _k(layer)) is not None]
            if known and self.main >= min(known):
                what = f"{self.main} of {min(known)} experts that a token chooses"
                found.append(Problem("main", what, "run fewer than are chosen in any layer"))
            return found

    config: Config

    def edit(self, fields: EditFields) -> CompressExperts:
        return CompressExperts(**fields, main=self.config.main)


def _k(layer: object) -> int | None:
    """Experts that a token chooses, where the selector's config says it."""
    found = getattr(getattr(layer, "selector", None), "k", None)
    return found if isinstance(found, int) else None
