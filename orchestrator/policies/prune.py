"""Which experts a stage does without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from orchestrator.policies.base import Policy, Proposal, View
from orchestrator.policies.lane_checks import late, routed
from workers.contract import InputError, Json, LaneSettings
from workers.edits import Prune, RefreshMask
from workers.tables import Problem

SUPER = "super_experts"
"""Diagnostic of a stage's start: layer -> ids of experts never to be pruned."""
DIAGNOSTIC = {
    "output_aware": "output_aware",
    "token": "expert_relevance",
    "gate": "expert_relevance",
    "use": None,
}
"""Score -> the diagnostic of a stage's start that tells it; None = what an interval reports."""


class PruneExperts(Policy):
    """Each routed layer keeps its best experts, the others are removed (EASY-EP, arXiv 2504.06792).

    With a score of the stage's start they go before its first step, scored on its training
    samples; with ``use`` they go at a stage's end, by the gate weights of its last interval. A mask
    in force keeps at least one expert for each domain, the best of those that it may train.
    """

    proposes: ClassVar[tuple[str, ...]] = ("prune",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """How many stay, and by what score."""

        kind: str = "prune"
        keep: int
        """M: experts that a layer keeps; one that has no more loses none."""
        score: Literal["output_aware", "token", "gate", "use"] = "output_aware"
        """``output_aware``: diagnostic of that name; ``token``, ``gate``: share of tokens, mean
        gate weight (diagnostic ``expert_relevance``); ``use``: mean gate weight in training."""
        from_stage: int = 1
        """First stage (from 0) that removes experts; each later one does too."""
        spare_super: bool = False
        """Keep experts that diagnostic ``super_experts`` finds, however they score."""

        def __post_init__(self) -> None:
            if self.keep < 1 or self.from_stage < 0:
                raise ValueError(
                    "keep must be at least 1 and from_stage not negative, got "
                    f"{self.keep} and {self.from_stage}"
                )

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """There must be experts, enough of them left, and somebody who scores them."""
            layers = routed(lane)
            if not layers:
                allowed = "use routed layers in the model, or take this policy out"
                return [Problem("kind", "the model has no experts under a router", allowed)]
            return [*late(self.from_stage, lane), *self._few(layers), *self._unscored(lane)]

        def _few(self, layers: Sequence[Any]) -> list[Problem]:
            least = max(layer.fewest for layer in layers)
            if self.keep >= least:
                return []
            return [Problem("keep", f"got {self.keep}", f"the selector needs at least {least}")]

        def _unscored(self, lane: LaneSettings) -> list[Problem]:
            if not lane.acts or (self.score == "use" and not self.spare_super):
                return []
            allowed = "such a lane measures nothing at a stage's start: score = 'use' alone"
            field = "spare_super" if self.score == "use" else "score"
            found = "a lane that learns from its own actions"
            return [Problem(field, found, allowed)]

    config: Config

    @property
    def first_stage(self) -> int:
        return self.config.from_stage

    @property
    def start_diagnostics(self) -> tuple[str, ...]:
        scored = DIAGNOSTIC[self.config.score]
        return (*((scored,) if scored else ()), *((SUPER,) if self.config.spare_super else ()))

    def propose(self, view: View, memory: Json) -> Proposal:
        due = view.stage.intervals if self.config.score == "use" else 0
        if view.n != due or view.stage.index < self.config.from_stage:
            return (), memory
        mask = view.model.latest(RefreshMask)
        experts: dict[str, tuple[int, ...]] = {}
        for layer, scores in self._scores(view).items():
            gone = view.removed(layer)
            live = [n for n in view.model.layers[layer].ids if n not in gone]
            spared = _told(view, SUPER)[layer] if self.config.spare_super else ()
            rows = [] if mask is None else mask.masks[layer]
            kept = best(scores, live, self.config.keep, spared, rows)
            if len(kept) < len(live):
                experts[layer] = tuple(n for n in live if n not in kept)
        if not experts:
            return (), memory
        figures = {f"removed/{layer}": float(len(ids)) for layer, ids in experts.items()}
        common = view.edit(policy="prune", trigger=self.config.score, figures=figures)
        return (Prune(**common, experts=experts),), memory

    def _scores(self, view: View) -> Mapping[str, Sequence[float]]:
        """Layer -> score of each expert by id, summed over the stage's domains."""
        name, key = DIAGNOSTIC[self.config.score], {"token": "tokens", "gate": "gates"}
        if name is None:
            assert view.report is not None
            return view.report.gate_weights
        told: dict[str, list[Sequence[float]]] = {}
        for layer, domains in _told(view, name).items():
            wanted = [domains[d] for d in view.stage.task.domains if d in domains]
            told[layer] = [
                row[key[self.config.score]] if isinstance(row, Mapping) else row for row in wanted
            ]
        return {
            layer: [sum(column) for column in zip(*rows, strict=True)]
            for layer, rows in told.items()
        }


def best(
    scores: Sequence[float],
    live: Sequence[int],
    keep: int,
    spared: Sequence[int] = (),
    rows: Sequence[Sequence[int]] = (),
) -> set[int]:
    """Experts that stay: the ``keep`` best of those live, of equal ones the older.

    Those spared stay before any other, and so does the best that each row of a mask (0 or 1 by id;
    beyond its end 1) allows: more than ``keep`` where these alone are more.
    """
    order = sorted(live, key=lambda n: (-(scores[n] if n < len(scores) else 0.0), n))
    kept = {n for n in live if n in spared}
    for row in rows:
        open_ = [n for n in order if n >= len(row) or row[n]]
        if open_ and not kept.intersection(open_):
            kept.add(open_[0])
    for number in order:
        if len(kept) >= keep:
            break
        kept.add(number)
    return kept


def _told(view: View, name: str) -> Any:
    if name not in view.diagnostics:
        raise InputError(
            f"policy prune: the worker measured no {name!r} at the start of stage "
            f"{view.stage.index}; its trainer must measure what LaneSpec.start_diagnostics asks"
        )
    return view.diagnostics[name]
