"""Growth where a model loses its ability to learn."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import linear_regression

from orchestrator.policies.base import View
from orchestrator.policies.growing import Evidence, Triggered
from workers.contract import Json, LaneSettings
from workers.tables import Problem

TRAINED = {"supervised": "train_score", "rl": "return_share"}
"""Trainer -> signal that says how well a stage was learnt, 0 to 1."""
DORMANT = "dormant_ratio"


class PlasticityLoss(Triggered):
    """Grows where stages are learnt worse than those before, or too many units are dormant.

    Trainability of stage t is the training score a_t at its end. Evidence at a stage's end where
    the least-squares slope of the last ``stages`` of them is below ``-fall``; at its start where
    the mean over layers of the share of dormant units (arXiv 2302.12902) is above ``dormant``.
    Remembers ``stages`` scores.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Triggered.Config):
        """What counts as a loss of plasticity."""

        kind: str = "plasticity_loss"
        stages: int = 4
        """Stages over which the slope is taken."""
        fall: float = 0.01
        """Training score lost from one stage to the next."""
        dormant: float | None = None
        """Share of dormant units at a stage's start, 0 to 1; None = it is not measured."""

        def __post_init__(self) -> None:
            Triggered.Config.__post_init__(self)
            if self.stages < 2 or self.fall < 0.0:
                raise ValueError(
                    "stages must be at least 2 and fall not negative, got "
                    f"{self.stages} and {self.fall}"
                )
            if self.dormant is not None and not 0.0 <= self.dormant < 1.0:
                raise ValueError(f"dormant must be from 0 to below 1, got {self.dormant}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """There must be so many stages, and one after them."""
            found = Triggered.Config.problems(self, lane)
            if lane.trainer not in TRAINED:
                what = f"trainer {lane.trainer} tells no training score"
                found.append(Problem("kind", what, f"works with {', '.join(TRAINED)}"))
            if self.stages >= len(lane.tasks) and self.dormant is None:
                what = f"{self.stages}, and the stream has {len(lane.tasks)}"
                found.append(Problem("stages", what, "must be below, or nothing ever grows"))
            return found

    config: Config

    @property
    def start_diagnostics(self) -> tuple[str, ...]:
        more = () if self.config.dormant is None else (DORMANT,)
        return (*super().start_diagnostics, *more)

    def look(self, view: View, memory: Json) -> tuple[Evidence | None, Json]:
        scores = list(memory or ())
        if view.n == 0:
            return self._dormant(view), scores
        learnt = [view.signals[name] for name in TRAINED.values() if name in view.signals]
        if view.n < view.stage.intervals or not learnt:
            return None, scores
        scores = [*scores, learnt[0]][-self.config.stages :]
        if len(scores) < self.config.stages:
            return None, scores
        fallen = slope(scores)
        if fallen >= -self.config.fall:
            return None, scores
        return Evidence("trainability falls", {"slope": fallen, "train_score": scores[-1]}), scores

    def _dormant(self, view: View) -> Evidence | None:
        shares = list(view.diagnostics.get(DORMANT, {}).values())
        if self.config.dormant is None or not shares:
            return None
        share = sum(shares) / len(shares)
        return Evidence("dormant units", {DORMANT: share}) if share > self.config.dormant else None


def slope(values: list[float]) -> float:
    """Least-squares slope of the values over 0, 1, 2, ..."""
    return linear_regression(range(len(values)), values).slope
