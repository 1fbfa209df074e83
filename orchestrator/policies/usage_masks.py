"""Which experts each domain may train, by how often its tokens choose them.

DES-MoE (arXiv 2509.16882), equations 5, 6 and 9. Everything is per layer; a matrix is a list of
rows, domain by domain, each with a number for every expert.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import ClassVar, Literal

from orchestrator.policies.base import Policy, Proposal, View
from orchestrator.policies.correlation import (
    Matrix,
    Rows,
    masked,
    mean_overlap,
    row_entropy,
    running,
)
from orchestrator.policies.lane_checks import domains_from, domains_told, late, routed, unable
from workers.contract import Json, LaneSettings
from workers.edits import Duplicate, Grow, RefreshMask, SetPhase
from workers.tables import Problem

NOTHING: Json = {"counts": {}, "tokens": {}}
"""Layer -> domain -> tokens that chose each expert, and domain -> tokens: since the last mask."""
SUPER = "super_experts"
"""Diagnostic of a stage's start: layer -> ids of experts never to be masked."""
OPEN = "warm-up"
"""Trigger of a mask that keeps no domain from any expert."""


class UsageMasks(Policy):
    """Experts that a domain's tokens choose often, refreshed from counts every few intervals.

    It remembers the counts since its last mask. Nothing is decided at a stage's end: what is
    counted in the last interval goes into the next mask.
    """

    proposes: ClassVar[tuple[str, ...]] = ("refresh_mask",)
    by_domain: ClassVar[bool] = True

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """When masks are refreshed, and how much use of an expert lets a domain train it."""

        kind: str = "usage_masks"
        refresh_every: int = 1
        """Intervals between two refreshes inside a stage."""
        threshold: float = 0.6
        """phi: a domain trains experts it uses at least this share as much as its favourite."""
        momentum: float = 0.9
        """alpha: weight of what was known in the running correlation matrix."""
        sharing: Literal["share", "copy", "claim"] = "share"
        """Experts that several domains use: ``share`` them, ``copy`` them for each, or leave them
        to the domain that used them first (``claim``)."""
        max_copies: int = 8
        """Copies per layer at most, with sharing = 'copy'."""
        exclusive_copies: bool = False
        """Keep tokens of other domains from choosing a copy in training. They can choose it in
        evaluation, where nobody tells domains, and the router did not learn to leave it."""
        near_uniform: float = 0.95
        """No copies in a layer whose mean row entropy is above this share of the largest one."""
        from_stage: int = 0
        """First stage (from 0) that counts and masks."""
        spare_super: bool = False
        """Never mask experts that diagnostic ``super_experts`` finds at a stage's start."""

        def __post_init__(self) -> None:
            if not 0.0 < self.threshold <= 1.0:
                raise ValueError(f"threshold must be above 0 and at most 1, got {self.threshold}")
            if not 0.0 <= self.momentum < 1.0:
                raise ValueError(f"momentum must be at least 0 and below 1, got {self.momentum}")
            if self.refresh_every < 1:
                raise ValueError(f"refresh_every must be at least 1, got {self.refresh_every}")
            if self.max_copies < 0 or self.from_stage < 0:
                raise ValueError("max_copies and from_stage must not be negative")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """The lane must count tokens by domain, and for long enough."""
            found = unable(lane) or late(self.from_stage, lane) or domains_told(lane)
            return found or [*self._unequal(lane), *self._short(lane), *self._acting(lane)]

        def _unequal(self, lane: LaneSettings) -> list[Problem]:
            if not any(layer.routes_to_all for layer in routed(lane)):
                return []
            allowed = 'use a selector that chooses, such as selector = { kind = "topk", k = 2 }'
            return [Problem("kind", "every token chooses every expert, so usage is equal", allowed)]

        def _short(self, lane: LaneSettings) -> list[Problem]:
            found = []
            if self.refresh_every >= lane.intervals:
                what = f"{self.refresh_every} intervals with training.intervals = {lane.intervals}"
                allowed = (
                    "a stage must be longer than that: raise training.intervals or refresh more "
                    "often"
                )
                found.append(Problem("refresh_every", what, allowed))
            domains = len(domains_from(self.from_stage, lane.tasks))
            if self.sharing == "copy" and self.max_copies < domains - 1:
                what = f"{self.max_copies} copies for {domains} domains"
                allowed = (
                    f"an expert that all share needs {domains - 1} copies: raise it, or use "
                    "sharing = 'share'"
                )
                found.append(Problem("max_copies", what, allowed))
            return found

        def _acting(self, lane: LaneSettings) -> list[Problem]:
            if self.spare_super and lane.acts:
                what = "true in a lane that learns from its own actions"
                allowed = "such a lane measures nothing at a stage's start: leave it out"
                return [Problem("spare_super", what, allowed)]
            if not self.exclusive_copies or not lane.acts:
                return []
            what = "true in a lane that learns from its own actions"
            allowed = (
                "a model must act as it learns, and in acting any copy can be chosen: leave it out"
            )
            return [Problem("exclusive_copies", what, allowed)]

    config: Config

    @property
    def first_stage(self) -> int:
        return self.config.from_stage

    @property
    def start_diagnostics(self) -> tuple[str, ...]:
        return (SUPER,) if self.config.spare_super else ()

    def propose(self, view: View, memory: Json) -> Proposal:
        memory = _counted(view, memory)
        trigger = self._due(view, memory)
        if trigger is None:
            return (), memory
        usage = self._usage(view, memory)
        rows = {layer: masked(matrix, self.config.threshold) for layer, matrix in usage.items()}
        before = mean_overlap(rows.values())
        mask = view.model.latest(RefreshMask)
        owners = {} if mask is None else dict(mask.owners)
        copies: dict[str, list[Duplicate]] = {}
        fallback: dict[str, Rows] = {}
        for layer, matrix in usage.items():
            gone = view.removed(layer)
            held = {n: owner for n, owner in owners.get(layer, {}).items() if int(n) not in gone}
            rows[layer] = [
                [int(bit and e not in gone) for e, bit in enumerate(row)] for row in rows[layer]
            ]
            if trigger == OPEN:
                rows[layer] = [[1] * len(row) for row in rows[layer]]
            elif self.config.sharing == "claim":
                made = self._claimed(matrix, rows[layer], held, gone, view.decides(Grow))
                rows[layer], fallback[layer], owners[layer] = made
            elif self.config.sharing == "copy":
                copied = self._copied(matrix, rows[layer], held, gone)
                usage[layer], rows[layer], copies[layer], owners[layer] = copied
            if self.config.spare_super:
                live = [n for n in view.diagnostics[SUPER][layer] if n not in gone]
                _open(rows[layer], live)
        figures = {
            "overlap_before": before,
            "overlap_after": mean_overlap(rows.values()),
            "copies": float(sum(len(made) for made in copies.values())),
        }
        edit = RefreshMask(
            **view.edit(policy="usage_masks", trigger=trigger, figures=figures),
            version=1 if mask is None else mask.version + 1,
            domains=self.facts.domains,
            masks=rows,
            fallback={layer: spare for layer, spare in fallback.items() if spare != rows[layer]},
            usage=usage,
            copies={layer: made for layer, made in copies.items() if made},
            owners=owners,
            exclusive=self.config.exclusive_copies,
        )
        return (edit,), NOTHING

    # ------------------------------------------------------------ when

    def _due(self, view: View, memory: Json) -> str | None:
        """What makes a refresh due now; None = nothing does."""
        if view.stage.index < self.config.from_stage or view.n >= view.stage.intervals:
            return None
        phase = view.model.latest(SetPhase)
        phase = phase if phase is not None and phase.stage == view.stage.id else None
        if phase is not None and phase.counts_only and "experts" in phase.trains:
            masked = view.model.latest(RefreshMask) is not None
            return OPEN if masked and phase.after_interval == view.n else None
        if view.n == 0:
            return self._newcomer(view)
        if phase is not None and (
            phase.counts_only or not {"experts", "router"} <= set(phase.trains)
        ):
            return None  # nothing is masked, or routing no longer changes
        since = 0 if phase is None else phase.after_interval
        if not memory["counts"]:
            return None
        if since and view.n == since:
            return "phase"
        return "interval" if (view.n - since) % self.config.refresh_every == 0 else None

    def _newcomer(self, view: View) -> str | None:
        """A stage of a domain that was never counted must not touch what others claimed."""
        mask = view.model.latest(RefreshMask)
        if self.config.sharing != "claim" or mask is None:
            return None
        seen = {
            domain
            for rows in mask.usage.values()
            for domain, row in zip(mask.domains, rows, strict=True)
            if any(row)
        }
        return "new domain" if set(view.stage.task.domains) - seen else None

    # ------------------------------------------------------------ what

    def _usage(self, view: View, memory: Json) -> dict[str, Matrix]:
        """The correlation matrix of each layer with the counts taken in (equations 5 and 9)."""
        mask = view.model.latest(RefreshMask)
        known = {} if mask is None else mask.usage
        matrices = {}
        for layer, shape in view.model.layers.items():
            old, counts = known.get(layer, ()), memory["counts"].get(layer, {})
            rows = []
            for number, domain in enumerate(self.facts.domains):
                before = list(old[number]) if number < len(old) else []
                before += [0.0] * (shape.born - len(before))
                tokens = memory["tokens"].get(domain, 0)
                new = [*counts.get(domain, ()), *[0] * shape.born][: shape.born]
                rows.append(running(before, new, tokens, self.config.momentum))
            gone = view.removed(layer)
            matrices[layer] = [[0.0 if e in gone else a for e, a in enumerate(r)] for r in rows]
        return matrices

    def _claimed(
        self,
        matrix: Matrix,
        rows: Rows,
        held: Mapping[str, str],
        gone: Collection[int],
        grows: bool,
    ) -> tuple[Rows, Rows, dict[str, str]]:
        """Each expert belongs to the domain that used it first; a new domain takes free ones.

        Nobody gets those ``gone``. Where none is free and the decision ``grows`` the model, it
        takes the experts to be born; the second result says what it trains in a layer that gets
        none.
        """
        owners, count = dict(held), len(matrix[0])
        for expert in range(count):
            wanting = [d for d, row in enumerate(rows) if row[expert] and any(matrix[d])]
            if wanting and str(expert) not in owners:
                best = max(wanting, key=lambda d: (matrix[d][expert], -d))
                owners[str(expert)] = self.facts.domains[best]
        free = [int(not (str(e) in owners or e in gone)) for e in range(count)]
        claimed, spare = [], []
        for domain, usage in zip(self.facts.domains, matrix, strict=True):
            own = [int(owners.get(str(expert)) == domain) for expert in range(count)]
            row = own if any(usage) else list(free)
            instead = row if any(row) else _favourite(usage, free, gone)
            if not any(row) and not (grows and not any(usage)):
                row, best = instead, instead.index(1)
                if any(usage) and free[best]:
                    owners[str(best)], free[best] = domain, 0
            claimed.append(row)
            spare.append(instead)
        return claimed, spare, owners

    def _copied(
        self, matrix: Matrix, rows: Rows, held: Mapping[str, str], gone: Collection[int]
    ) -> tuple[Matrix, Rows, list[Duplicate], dict[str, str]]:
        """Copies for domains that share an expert, within the budget (section 3.2, duplication)."""
        owners = dict(held)
        for row, domain in zip(rows, self.facts.domains, strict=True):
            for copy, owner in owners.items():
                row[int(copy)] &= int(owner == domain)
        made: list[Duplicate] = []
        matrix = [list(row) for row in matrix]
        if row_entropy(matrix) <= self.config.near_uniform:
            for expert in range(len(rows[0])):
                if str(expert) not in owners:
                    self._split(expert, matrix, rows, owners, made)
        rows = [
            row if any(row) else _favourite(usage, _open_to(domain, owners, len(row), gone), gone)
            for domain, usage, row in zip(self.facts.domains, matrix, rows, strict=True)
        ]
        return matrix, rows, made, owners

    def _split(
        self,
        expert: int,
        matrix: Matrix,
        rows: Rows,
        owners: dict[str, str],
        made: list[Duplicate],
    ) -> None:
        """The domain that uses the expert most keeps it, each other one gets a copy of it."""
        sharing = [d for d, row in enumerate(rows) if row[expert] and any(matrix[d])]
        sharing.sort(key=lambda d: (-matrix[d][expert], d))
        for domain in sharing[1:]:
            if len(owners) >= self.config.max_copies:
                return
            copy, owner = len(rows[0]), self.facts.domains[domain]
            for number, row in enumerate(rows):
                row.append(int(number == domain))
                matrix[number].append(matrix[number][expert] if number == domain else 0.0)
            rows[domain][expert] = 0
            owners[str(copy)] = owner
            made.append(Duplicate(expert=copy, parent=expert, owner=owner))


def _open(rows: Rows, experts: Sequence[int]) -> None:
    """Every domain may train these experts."""
    for row in rows:
        for expert in experts:
            row[expert] = 1


def _counted(view: View, memory: Json) -> Json:
    """The interval's counts on top of those since the last mask; integers, so sums are exact.

    Before the first mask each stage begins to count anew.
    """
    if memory is None or (view.n == 0 and view.model.latest(RefreshMask) is None):
        memory = NOTHING
    report = view.report
    if report is None or not report.tokens:
        return memory
    counts = {
        layer: {**memory["counts"].get(layer, {}), **_sums(memory, layer, rows)}
        for layer, rows in report.counts.items()
    }
    tokens = {
        domain: memory["tokens"].get(domain, 0) + number for domain, number in report.tokens.items()
    }
    return {
        "counts": {**memory["counts"], **counts},
        "tokens": {**memory["tokens"], **tokens},
    }


def _sums(memory: Json, layer: str, rows: Mapping[str, list[int]]) -> dict[str, list[int]]:
    known = memory["counts"].get(layer, {})
    return {
        domain: [a + b for a, b in zip_longest(known.get(domain, ()), row, fillvalue=0)]
        for domain, row in rows.items()
    }


def _favourite(usage: Sequence[float], allowed: Sequence[int], gone: Collection[int]) -> list[int]:
    """A row with one expert: the most used of those allowed, or of all there are where none is."""
    pool = [e for e, open_ in enumerate(allowed) if open_]
    pool = pool or [e for e in range(len(usage)) if e not in gone]
    best = max(pool, key=lambda e: (usage[e], -e))
    return [int(e == best) for e in range(len(usage))]


def _open_to(
    domain: str, owners: Mapping[str, str], experts: int, gone: Collection[int]
) -> list[int]:
    return [int(owners.get(str(e), domain) == domain and e not in gone) for e in range(experts)]
