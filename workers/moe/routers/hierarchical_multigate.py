"""Gates by task over shared, group and task experts.

The hierarchy of HoME (arXiv 2408.05430). Letters: T tokens, E experts, G domains.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.contract import LaneSettings
from workers.moe.routers.base import RouterContext
from workers.moe.routers.domain_gates import DomainGates, gates_needed
from workers.moe.routers.known_domains import domain_problems, domains_of_tokens, too_few
from workers.tables import Problem

CLOSED = -1e4
"""Logit of an expert that a domain may not see: its softmax weight is exactly 0."""


class HierarchicalMultigateRouter(DomainGates):
    """A softmax gate for each task over shared experts, its group's and its own (HoME, 2408.05430).

    By their ids, the order in which they came: ``shared`` ones, which every task sees, then
    ``per_group`` for each group, then ``per_task`` for each task (domain); any further ones are
    shared. A task does not see the experts of other groups and tasks: they get no weight and no
    gradient from it.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the hierarchy."""

        kind: str = "hierarchical_multigate"
        groups: tuple[tuple[int, ...], ...] = ((0, 1), (2, 3))
        """Groups of domains, each by its place (from 0) in the order of the stream."""
        shared: int = 1
        """Experts that all tasks see; at least one, so that every task sees some from the start."""
        per_group: int = 1
        """Experts of each group."""
        per_task: int = 1
        """Experts of each task."""
        oracle: bool = False
        """It may be told the domain though the stream hides it at test time: an upper bound."""

        def __post_init__(self) -> None:
            places = sorted(place for group in self.groups for place in group)
            if not places or places != list(range(len(places))):
                raise ValueError(f"groups must hold each domain 0, 1, ... once, got {self.groups}")
            if self.shared < 1 or self.per_group < 0 or self.per_task < 0:
                raise ValueError("shared must be at least 1, per_group and per_task not negative")

        @property
        def domains(self) -> int:
            """Domains of all groups."""
            return sum(map(len, self.groups))

        @property
        def experts(self) -> int:
            """Experts that the hierarchy has places for."""
            return self.shared + self.per_group * len(self.groups) + self.per_task * self.domains

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Domains must be known and grouped, and each level must get its experts."""
            found = domain_problems(lane, self.oracle) or gates_needed(lane, self.domains, "groups")
            return found or too_few(
                lane.final_experts, self.experts, "shared, group and task experts"
            )

    def __init__(self, config: Config, inputs: int) -> None:
        super().__init__(inputs, config.domains)
        self.config = config

    def forward(self, x_TD: Tensor, context: RouterContext) -> Tensor:
        """Logits [T, E]; of experts that the token's task does not see they are closed."""
        logits_TE = super().forward(x_TD, context)
        seen_GE = self.seen(logits_TE.device)
        return logits_TE.masked_fill(~seen_GE[domains_of_tokens(context)], CLOSED)

    def seen(self, device: torch.device | str = "cpu") -> Tensor:
        """Which experts each domain sees, bool [G, E]."""
        config = self.config
        groups = [
            next(g for g, group in enumerate(config.groups) if d in group)
            for d in range(config.domains)
        ]
        rows = []
        for domain, group in enumerate(groups):
            levels = [True] * config.shared
            levels += [
                g == group for g in range(len(config.groups)) for _ in range(config.per_group)
            ]
            levels += [d == domain for d in range(config.domains) for _ in range(config.per_task)]
            ids = map(int, self.rows)
            rows.append([levels[id] if id < len(levels) else True for id in ids])
        return torch.tensor(rows, dtype=torch.bool, device=device)
