"""Expert-specialised fine-tuning: each stage trains its most relevant experts alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from orchestrator.policies.base import Policy, Proposal, View
from orchestrator.policies.lane_checks import late, unable
from workers.contract import InputError, Json, LaneSettings
from workers.edits import ROLES, RefreshMask, Role, SetPhase
from workers.tables import Problem

RELEVANCE = "expert_relevance"
"""Diagnostic of a stage's start: layer -> domain -> {"tokens": share of the choices that fall on
each expert, "gates": mean gate weight of each expert}, on training samples of the stage."""


class Esft(Policy):
    """Only the experts most relevant to a stage's domains are trained in it (ESFT).

    arXiv 2407.01906: experts are taken, best first, until they hold a share of the score; the
    choice is made once, before the stage's first step, and all else stands still.
    """

    proposes: ClassVar[tuple[str, ...]] = ("refresh_mask", "set_phase")
    by_domain: ClassVar[bool] = True
    chooses_experts: ClassVar[bool] = True

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """How experts are chosen."""

        kind: str = "esft"
        score: Literal["token", "gate"] = "token"
        """``token``: share of the tokens that choose an expert; ``gate``: its mean gate weight."""
        share: float | None = None
        """p: experts are taken, best first, until they hold this share of the score; 0.2 for
        ``token`` and 0.1 for ``gate`` where absent."""
        from_stage: int = 1
        """First stage (from 0) that is fine-tuned so; earlier ones train everything."""

        def __post_init__(self) -> None:
            if not 0.0 < self.part <= 1.0 or self.from_stage < 0:
                raise ValueError(
                    "share must be above 0 and at most 1 and from_stage not negative, got "
                    f"{self.share} and {self.from_stage}"
                )

        @property
        def part(self) -> float:
            """``share``, or its default for the score."""
            return {"token": 0.2, "gate": 0.1}[self.score] if self.share is None else self.share

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """What else masks, phases or grows in the lane would undo the choice."""
            found = unable(lane) or late(self.from_stage, lane)
            if lane.final_experts != lane.experts:
                what = "the lane grows"
                allowed = (
                    "an expert born later was not scored: its mask would be open and its router "
                    "row frozen as drawn; take the growth policy or esft out of the lane"
                )
                found.append(Problem("kind", what, allowed))
            others = [name for name, config in lane.policies.items() if config is not self]
            if others and {"refresh_mask", "set_phase"} & _proposed(lane, self):
                allowed = f"esft sets masks and phases itself: take out {', '.join(others)}"
                found.append(Problem("kind", "other policies set masks or phases too", allowed))
            return found

    config: Config

    @property
    def trains(self) -> tuple[tuple[Role, ...], ...]:
        return (ROLES, ("experts",)) if self.config.from_stage else (("experts",),)

    @property
    def start_diagnostics(self) -> tuple[str, ...]:
        return (RELEVANCE,)

    @property
    def first_stage(self) -> int:
        return self.config.from_stage

    def propose(self, view: View, memory: Json) -> Proposal:
        if view.n > 0 or view.stage.index < self.config.from_stage:
            return (), memory
        if RELEVANCE not in view.diagnostics:
            raise InputError(
                f"policy esft: the worker measured no {RELEVANCE!r} at the start of stage "
                f"{view.stage.index}; its trainer must measure what LaneSpec.start_diagnostics asks"
            )
        relevance = view.diagnostics[RELEVANCE]
        key = {"token": "tokens", "gate": "gates"}[self.config.score]
        rows = {}
        for layer, by_domain in relevance.items():
            scores = [by_domain[domain][key] for domain in view.stage.task.domains]
            chosen = {e for score in scores for e in best(score, self.config.part)}
            rows[layer] = [int(expert in chosen) for expert in range(len(scores[0]))]
        figures = {f"experts/{layer}": float(sum(row)) for layer, row in rows.items()}
        last = view.model.latest(RefreshMask)
        domains = self.facts.domains
        mask = RefreshMask(
            **view.edit(policy="esft", trigger="stage start", figures=figures),
            version=1 if last is None else last.version + 1,
            domains=domains,
            masks={layer: [list(row) for _ in domains] for layer, row in rows.items()},
        )
        phase = SetPhase(
            **view.after(mask).edit(policy="esft", trigger="stage start"),
            phase="esft",
            trains=("experts",),
        )
        return (mask, phase), memory


def best(score: Sequence[float], share: float) -> list[int]:
    """Best experts, of equal ones the lower first, until their scores hold ``share`` of all."""
    order = sorted(range(len(score)), key=lambda expert: (-score[expert], expert))
    total, held = sum(score), 0.0
    kept: list[int] = []
    for expert in order:
        if kept and held >= share * total - 1e-12:
            break
        kept.append(expert)
        held += score[expert]
    return sorted(kept)


def _proposed(lane: LaneSettings, own: object) -> set[str]:
    """Kinds of edit that the lane's other policies may propose."""
    from orchestrator.policies import proposed

    return {
        kind for config in lane.policies.values() if config is not own for kind in proposed(config)
    }
