"""Which experts each domain may train: pure deciders of ``RefreshMask`` edits from usage counts.

DES-MoE (arXiv 2509.16882), equations 5, 6 and 9. Everything is per layer; a matrix is a list of
rows, domain by domain, each with a number for every expert.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from orchestrator.policies.growth import Progress
from workers.contract import Cause, Duplicate, RefreshMask, derive_seed
from workers.diagnostics.tables import jaccard, mean_pairs

Matrix = list[list[float]]
Rows = list[list[int]]


class MaskPolicy(Protocol):
    """Decides new masks from progress; sees the domains of the whole stream."""

    def propose(self, progress: Progress) -> tuple[RefreshMask, ...]: ...


class NoMasks:
    """Every domain trains every expert."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str = "none"

    def __init__(self, config: Config, domains: Sequence[str]) -> None:
        self.config = config

    def propose(self, progress: Progress) -> tuple[RefreshMask, ...]:
        return ()


class FixedMasks:
    """Experts by domain as the config says, from the start of a stage on."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str = "fixed"
        experts: dict[str, list[int]] = field(default_factory=dict)
        """Domain -> experts that it trains, in every layer."""
        from_stage: int = 0
        """First stage (from 0) that is trained under the masks."""

    def __init__(self, config: Config, domains: Sequence[str]) -> None:
        self.config = config

    def propose(self, progress: Progress) -> tuple[RefreshMask, ...]:
        if progress.n > 0 or progress.stage.index < self.config.from_stage:
            return ()
        domains = tuple(self.config.experts)
        masks: dict[str, Rows] = {}
        for layer, live in progress.layers.items():
            rows = [
                [int(expert in self.config.experts[domain]) for expert in range(live)]
                for domain in domains
            ]
            masks[layer] = [row if any(row) or progress.grows else [1] * live for row in rows]
        if progress.mask is not None and progress.mask.masks == masks:
            return ()
        cause = Cause(policy="fixed", trigger="stage start")
        return (_edit(progress, domains, masks, cause),)


class UsageMasks:
    """Experts that a domain's tokens choose often, refreshed from counts every few intervals."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str = "usage"
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

        def __post_init__(self) -> None:
            if not 0.0 < self.threshold <= 1.0:
                raise ValueError(f"threshold must be above 0 and at most 1, got {self.threshold}")
            if not 0.0 <= self.momentum < 1.0:
                raise ValueError(f"momentum must be at least 0 and below 1, got {self.momentum}")
            if self.refresh_every < 1:
                raise ValueError(f"refresh_every must be at least 1, got {self.refresh_every}")
            if self.max_copies < 0 or self.from_stage < 0:
                raise ValueError("max_copies and from_stage must not be negative")

    def __init__(self, config: Config, domains: Sequence[str]) -> None:
        self.config, self.domains = config, tuple(domains)

    def propose(self, progress: Progress) -> tuple[RefreshMask, ...]:
        trigger = self._due(progress)
        if trigger is None:
            return ()
        usage = self._usage(progress)
        rows = {layer: masked(matrix, self.config.threshold) for layer, matrix in usage.items()}
        before = mean_overlap(rows.values())
        copies: dict[str, list[Duplicate]] = {}
        owners = {} if progress.mask is None else dict(progress.mask.owners)
        for layer, matrix in usage.items():
            held = owners.get(layer, {})
            if self.config.sharing == "claim":
                rows[layer], owners[layer] = self._claimed(
                    matrix, rows[layer], held, progress.grows
                )
            elif self.config.sharing == "copy":
                made = self._copied(matrix, rows[layer], held)
                usage[layer], rows[layer], copies[layer], owners[layer] = made
        figures = {
            "overlap_before": before,
            "overlap_after": mean_overlap(rows.values()),
            "copies": float(sum(len(made) for made in copies.values())),
        }
        cause = Cause(policy="usage", trigger=trigger, figures=figures)
        copies = {layer: made for layer, made in copies.items() if made}
        return (
            _edit(
                progress,
                self.domains,
                rows,
                cause,
                usage=usage,
                copies=copies,
                owners=owners,
                exclusive=self.config.exclusive_copies,
            ),
        )

    # ------------------------------------------------------------ when

    def _due(self, progress: Progress) -> str | None:
        """What makes a refresh due now; None = nothing does."""
        if progress.stage.index < self.config.from_stage:
            return None
        if progress.n == 0:
            return self._newcomer(progress)
        phase = progress.phase
        since = 0
        if phase is not None and phase.stage == progress.stage.id:
            if "experts" not in phase.trains or "router" not in phase.trains:
                return None  # nothing is masked, or routing no longer changes
            since = phase.after_interval
        if not progress.counts:
            return None
        if since and progress.n == since:
            return "phase"
        return "interval" if (progress.n - since) % self.config.refresh_every == 0 else None

    def _newcomer(self, progress: Progress) -> str | None:
        """A stage of a domain that was never counted must not touch what others claimed."""
        if self.config.sharing != "claim" or progress.mask is None:
            return None
        mask = progress.mask
        seen = {
            domain
            for rows in mask.usage.values()
            for domain, row in zip(mask.domains, rows, strict=True)
            if any(row)
        }
        return "new domain" if set(progress.stage.task.domains) - seen else None

    # ------------------------------------------------------------ what

    def _usage(self, progress: Progress) -> dict[str, Matrix]:
        """The correlation matrix of each layer with the counts folded in (equations 5 and 9)."""
        known = {} if progress.mask is None else progress.mask.usage
        folded = {}
        for layer, live in progress.layers.items():
            old, counts = known.get(layer, ()), progress.counts.get(layer, {})
            rows = []
            for number, domain in enumerate(self.domains):
                before = list(old[number]) if number < len(old) else []
                before += [0.0] * (live - len(before))
                tokens = progress.tokens.get(domain, 0)
                new = [*counts.get(domain, ()), *[0] * live][:live]
                rows.append(fold_row(before, new, tokens, self.config.momentum))
            folded[layer] = rows
        return folded

    def _claimed(
        self, matrix: Matrix, rows: Rows, held: Mapping[str, str], grows: bool
    ) -> tuple[Rows, dict[str, str]]:
        """Each expert belongs to the domain that used it first; a new domain takes free ones.

        Where none is free and the decision ``grows`` the model, it takes the experts to be born.
        """
        owners, count = dict(held), len(matrix[0])
        for expert in range(count):
            wanting = [d for d, row in enumerate(rows) if row[expert] and any(matrix[d])]
            if wanting and str(expert) not in owners:
                best = max(wanting, key=lambda d: (matrix[d][expert], -d))
                owners[str(expert)] = self.domains[best]
        free = [int(str(expert) not in owners) for expert in range(count)]
        claimed = []
        for domain, usage in zip(self.domains, matrix, strict=True):
            own = [int(owners.get(str(expert)) == domain) for expert in range(count)]
            row = own if any(usage) else list(free)
            if not any(row) and not (grows and not any(usage)):
                row = _favourite(usage, free)
                best = row.index(1)
                if any(usage) and free[best]:
                    owners[str(best)], free[best] = domain, 0
            claimed.append(row)
        return claimed, owners

    def _copied(
        self, matrix: Matrix, rows: Rows, held: Mapping[str, str]
    ) -> tuple[Matrix, Rows, list[Duplicate], dict[str, str]]:
        """Copies for domains that share an expert, within the budget (section 3.2, duplication)."""
        owners = dict(held)
        for row, domain in zip(rows, self.domains, strict=True):
            for copy, owner in owners.items():
                row[int(copy)] &= int(owner == domain)
        made: list[Duplicate] = []
        matrix = [list(row) for row in matrix]
        if row_entropy(matrix) <= self.config.near_uniform:
            for expert in range(len(rows[0])):
                if str(expert) not in owners:
                    self._split(expert, matrix, rows, owners, made)
        rows = [
            row if any(row) else _favourite(usage, _open_to(domain, owners, len(row)))
            for domain, usage, row in zip(self.domains, matrix, rows, strict=True)
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
            copy, owner = len(rows[0]), self.domains[domain]
            for number, row in enumerate(rows):
                row.append(int(number == domain))
                matrix[number].append(matrix[number][expert] if number == domain else 0.0)
            rows[domain][expert] = 0
            owners[str(copy)] = owner
            made.append(Duplicate(expert=copy, parent=expert, owner=owner))


def fold_row(
    before: Sequence[float], counts: Sequence[int], tokens: int, momentum: float
) -> list[float]:
    """``A <- alpha A + (1 - alpha) A_hat`` (equation 9) for one domain; its first counts as found.

    Without tokens the row stays as it was.
    """
    if tokens == 0:
        return list(before)
    found = [count / tokens for count in counts]
    if not any(before):
        return found
    return [momentum * a + (1 - momentum) * b for a, b in zip(before, found, strict=True)]


def masked(matrix: Matrix, threshold: float) -> Rows:
    """``M[d,e] = 1`` where ``A[d,e] >= phi max_e A[d,e]`` (equation 6); 1 where A is unknown."""
    return [[int(a >= threshold * max(row)) for a in row] for row in matrix]


def row_entropy(matrix: Matrix) -> float:
    """Mean entropy of the rows as distributions, as a share of the largest possible, 0 to 1."""
    rows = [row for row in matrix if any(row)]
    if not rows or len(rows[0]) < 2:
        return 0.0
    entropies = []
    for row in rows:
        shares = [a / sum(row) for a in row if a > 0]
        entropies.append(-sum(p * math.log(p) for p in shares) / math.log(len(row)))
    return sum(entropies) / len(entropies)


def mean_overlap(layers: Iterable[Rows]) -> float:
    """Mean Jaccard overlap over pairs of domains, then over layers; 0 for a single domain."""
    overlaps = [mean_pairs(rows, jaccard) for rows in layers]
    return sum(overlaps) / len(overlaps) if overlaps else 0.0


def _favourite(usage: Sequence[float], allowed: Sequence[int]) -> list[int]:
    """A row with one expert: the most used of those allowed, or of all where none is."""
    pool = [e for e, open_ in enumerate(allowed) if open_] or list(range(len(usage)))
    best = max(pool, key=lambda e: (usage[e], -e))
    return [int(e == best) for e in range(len(usage))]


def _open_to(domain: str, owners: Mapping[str, str], experts: int) -> list[int]:
    return [int(owners.get(str(expert), domain) == domain) for expert in range(experts)]


def _edit(
    progress: Progress,
    domains: tuple[str, ...],
    masks: dict[str, Rows],
    cause: Cause,
    *,
    usage: dict[str, Matrix] | None = None,
    copies: dict[str, list[Duplicate]] | None = None,
    owners: dict[str, dict[str, str]] | None = None,
    exclusive: bool = False,
) -> RefreshMask:
    stage = progress.stage
    return RefreshMask(
        id=f"{stage.id}-{progress.edits}",
        stage=stage.id,
        after_interval=progress.n,
        version=1 if progress.mask is None else progress.mask.version + 1,
        domains=domains,
        masks=masks,
        usage=usage or {},
        copies=copies or {},
        owners=owners or {},
        exclusive=exclusive,
        seed=derive_seed(stage.seed, stage.id, "edit", progress.edits),
        cause=cause,
    )
