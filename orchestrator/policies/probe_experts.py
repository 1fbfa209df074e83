"""Experts on trial: added where another trigger says so, kept where they win on validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

from orchestrator.policies.base import LaneFacts, Policy, Proposal, View
from orchestrator.policies.growing import Triggered
from orchestrator.policies.lane_checks import even_schedules, unrouted
from orchestrator.policies.signals import unfilled
from workers.contract import Json, LaneSettings
from workers.edits import Edit, Grow, Prune
from workers.tables import Problem, choice, lookup

GAIN = "newest_gain"


def _policies() -> Mapping[str, type]:
    from orchestrator.policies import POLICIES

    return POLICIES


class ProbeExperts(Policy):
    """Grows as ``when`` says, and after ``trial`` intervals removes what does not help.

    An expert on trial is kept where the validation score with it less that with it switched off
    (signal ``newest_gain/<layer>``) is at least ``least``, layer by layer: experts that are tried
    where they may be needed, as in LLaVA-CMoE (arXiv 2503.21227), which looks at how often they are
    chosen instead. The others have adapted to it by then, so its gain may be overestimated. During
    a trial ``when`` is not asked.
    """

    proposes: ClassVar[tuple[str, ...]] = ("grow", "prune")

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """When there is a trial, how long it is, and what must come of it."""

        kind: str = "probe_experts"
        when: Any = choice(_policies, "plateau")
        """Trigger that says when: plateau, drift_detector, ... with its settings."""
        trial: int = 2
        """Intervals that a new expert is trained before it is judged."""
        least: float = 0.005
        """Validation score that it must add, -1 to 1."""

        def __post_init__(self) -> None:
            if self.trial < 1:
                raise ValueError(f"trial must be at least 1, got {self.trial}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """There must be routers, a trigger that adds one expert, and validation."""
            found = unrouted(lane) or even_schedules(lane, "kind")
            found += unfilled(lane, [GAIN], "kind")
            cls: Any = lookup(_policies(), self.when.kind, "when")
            if not issubclass(cls, Triggered):
                able = ", ".join(n for n, c in _policies().items() if issubclass(c, Triggered))
                found.append(Problem("when", f"{self.when.kind!r} is no trigger", f"give {able}"))
            elif self.when.add != 1:
                allowed = "experts are tried one at a time in a layer: add = 1"
                found.append(Problem("when.add", f"got {self.when.add}", allowed))
            return found

    config: Config

    def __init__(self, config: Any, facts: LaneFacts) -> None:
        super().__init__(config, facts)
        cls: Any = lookup(_policies(), config.when.kind, "when")
        self.when: Policy = cls(config.when, facts)

    @property
    def watches(self) -> tuple[str, ...]:
        return (*self.when.watches, GAIN)

    @property
    def start_diagnostics(self) -> tuple[str, ...]:
        return self.when.start_diagnostics

    def propose(self, view: View, memory: Json) -> Proposal:
        """Remembers what ``when`` does, and of a trial (layer -> id, interval of its start)."""
        told = memory or {"when": None, "trial": None, "since": 0}
        now = view.stage.index * self.facts.intervals + view.n
        if told["trial"] is None:
            edits, when = self.when.propose(view, told["when"])
            trial = self._tried(view, edits[0]) if edits else None
            return edits, {"when": when, "trial": trial, "since": now}
        if view.report is None or now - told["since"] < self.config.trial:
            return (), told
        return self._judged(view, told["trial"]), {**told, "trial": None}

    def _tried(self, view: View, edit: Edit) -> dict[str, int]:
        """Layer -> id of its expert on trial."""
        layers = cast(Grow, edit).layers or tuple(view.model.layers)
        return {layer: view.model.layers[layer].born for layer in layers}

    def _judged(self, view: View, trial: Mapping[str, int]) -> tuple[Edit, ...]:
        """Removal of those that add too little. One that is no longer the newest is left alone."""
        gains = {
            layer: view.signals[f"{GAIN}/{layer}"]
            for layer, number in trial.items()
            if f"{GAIN}/{layer}" in view.signals and view.model.layers[layer].ids[-1] == number
        }
        lost: dict[str, tuple[int, ...]] = {
            layer: (trial[layer],) for layer, gain in gains.items() if gain < self.config.least
        }
        if not lost:
            return ()
        figures = {f"{GAIN}/{layer}": gains[layer] for layer in lost}
        fields = view.edit(policy="probe_experts", trigger="trial lost", figures=figures)
        return (Prune(**fields, experts=lost),)

    def final_experts(self, start: int, stages: int, steps_per_stage: int | None) -> int | None:
        return self.when.final_experts(start, stages, steps_per_stage)

    def bounded(self, experts: int | None) -> Config:
        return replace(self.config, when=self.when.bounded(experts))
