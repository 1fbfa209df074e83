"""When routers stop learning: once the experts that tokens go to no longer change."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from orchestrator.policies.base import Policy, Proposal, View
from orchestrator.policies.lane_checks import late, unrouted
from workers.contract import Json, LaneSettings
from workers.edits import ROLES, Role, SetPhase
from workers.tables import Problem

FROZEN: tuple[Role, ...] = ("experts", "backbone")
"""What trains while routers do not."""
LEARN, FREEZE = "routers learn", "routers frozen"
"""Names of the phases."""
SIGNAL = "routing_flips"


class FreezeRouters(Policy):
    """Stops the routers' updates in a stage once top-1 assignments are stable (arXiv 2406.16437).

    Once ``explore`` of a stage is over, ``patience`` intervals in a row whose signal
    ``routing_flips`` is at most ``flips`` freeze all routers until the stage ends, or experts are
    added. It remembers how many such intervals came last, and the number of experts.

    Stable is the choice itself; the source asks for the gap between the chosen expert's logit and
    the others', after one exploration in which every kind of task has come. Samples of a new kind
    that all go to an old expert count as stable here, and freezing keeps them there: where kinds
    are still to come, set ``from_stage`` past them (with ``keep`` for the source's "for good").
    """

    proposes: ClassVar[tuple[str, ...]] = ("set_phase",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """What counts as stable, and for how long."""

        kind: str = "freeze_routers"
        explore: float = 0.25
        """Share of each stage in which routers learn in any case."""
        flips: float = 0.02
        """Share of the looked-at training tokens, in the layer where it is largest, that may go to
        another expert within an interval of stable routing."""
        patience: int = 2
        """m: intervals in a row that must be stable."""
        from_stage: int = 0
        """First stage (from 0) that it freezes anything in."""
        keep: bool = False
        """Whether routers stay frozen in later stages too, until the model has new experts."""

        def __post_init__(self) -> None:
            if not 0.0 <= self.explore < 1.0:
                raise ValueError(f"explore must be at least 0 and below 1, got {self.explore}")
            if not 0.0 <= self.flips <= 1.0:
                raise ValueError(f"flips must be a share, 0 to 1, got {self.flips}")
            if self.patience < 1 or self.from_stage < 0:
                raise ValueError(
                    "patience must be at least 1 and from_stage not negative, got "
                    f"{self.patience} and {self.from_stage}"
                )

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Intervals must tell of flips, and leave time after them."""
            if lane.acts:
                what = "a lane that learns from its own actions measures no routing_flips"
                allowed = "its states change with the policy: freeze by three_phases instead"
                return [Problem("kind", what, allowed)]
            found = unrouted(lane) or late(self.from_stage, lane)
            first = max(self.patience, math.ceil(self.explore * lane.intervals))
            if first >= lane.intervals:
                what = f"routers freeze after {first} of {lane.intervals} intervals at the earliest"
                allowed = "raise training.intervals, or lower explore or patience"
                found = [*found, Problem("patience", what, allowed)]
            others = [name for name in lane.policies if self._sets_phases(lane.policies[name])]
            if others:
                what = f"policy {others[0]!r} says what trains when, too"
                found = [*found, Problem("kind", what, "leave one of the two out")]
            return found

        def _sets_phases(self, config: Any) -> bool:
            from orchestrator.policies import proposed

            return config is not self and "set_phase" in proposed(config)

    config: Config

    @property
    def first_stage(self) -> int:
        return self.config.from_stage

    @property
    def trains(self) -> tuple[tuple[Role, ...], ...]:
        return (ROLES, FROZEN)

    def propose(self, view: View, memory: Json) -> Proposal:
        stable, experts = memory or (0, view.model.experts)
        stable = 0 if view.n == 0 else self._stable(view, stable)
        if frozen(view):
            born = view.model.experts != experts
            if not born and (self.config.keep or view.n > 0):
                return (), [stable, experts]
            return self._phases(view, LEARN, ROLES), [0, view.model.experts]
        kept = [stable, view.model.experts]
        if stable < self.config.patience or not self._room(view):
            return (), kept
        return self._phases(view, FREEZE, FROZEN), kept

    def _stable(self, view: View, before: int) -> int:
        """Intervals in a row with stable routing, the last one included."""
        return before + 1 if view.signals[SIGNAL] <= self.config.flips else 0

    def _room(self, view: View) -> bool:
        """Whether routers have explored, and an interval is left to train without them."""
        return self.config.explore * view.stage.intervals <= view.n < view.stage.intervals

    def _phases(self, view: View, name: str, trains: tuple[Role, ...]) -> tuple[SetPhase, ...]:
        figures = {SIGNAL: view.signals[SIGNAL]} if view.n else {}
        common = view.edit(policy="freeze_routers", trigger=name, figures=figures)
        return (SetPhase(**common, phase=name, trains=trains),)


def frozen(view: View) -> bool:
    """Whether the routers of the model are kept from learning."""
    phase = view.model.latest(SetPhase)
    return phase is not None and "router" not in phase.trains
