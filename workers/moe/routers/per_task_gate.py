"""Gates by task with a memory that is updated from layer to layer.

TaskExpert (arXiv 2307.15324). Letters: T tokens, E experts, D inputs, H numbers of the memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workers.contract import LaneSettings
from workers.moe.routers.base import Router, RouterContext
from workers.moe.routers.domain_gates import DomainGates, gates_needed
from workers.moe.routers.known_domains import domain_problems
from workers.tables import Problem


class PerTaskGateRouter(DomainGates):
    """g_{t,e}(x) from [x; m_l], m_l = m_{l-1} + tanh(P_l x + q_{l,t}) (TaskExpert, 2307.15324).

    t: the token's task, which is its domain. The memory m [T, H] starts at 0, goes from layer to
    layer and joins as further inputs of the task's gate; in the paper, where every sample has all
    tasks, it joins the mixture as one more expert's feature. Without memory (size 0) it is a gate
    for each task alone.
    """

    aim = Router.aim

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of gates by task."""

        kind: str = "per_task_gate"
        domains: int = 8
        """Domains (tasks) that have a gate: at least those of the stream."""
        memory: int = 16
        """H: numbers of a token's memory; 0 = none."""
        oracle: bool = False
        """It may be told the domain though the stream hides it at test time: an upper bound."""

        def __post_init__(self) -> None:
            if self.domains < 1 or self.memory < 0:
                raise ValueError(
                    "domains must be at least 1 and memory not negative, got "
                    f"{self.domains} and {self.memory}"
                )

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Domains must be known, and each must have a gate."""
            found = domain_problems(lane, self.oracle)
            return found or gates_needed(lane, self.domains, "domains")

    def __init__(self, config: Config, inputs: int) -> None:
        super().__init__(inputs + config.memory, config.domains)
        self.project: nn.Linear | None = None
        if config.memory:
            self.project = nn.Linear(inputs, config.memory, bias=False)
            self.tasks = nn.Parameter(torch.zeros(config.domains, config.memory))

    def forward(self, x_TD: Tensor, context: RouterContext) -> Tensor:
        """Logits [T, E]."""
        return self.route(x_TD, context)[0]

    def route(self, x_TD: Tensor, context: RouterContext) -> tuple[Tensor, Tensor | None]:
        """Logits [T, E], and the memory [T, H] for the next layer."""
        if self.project is None:
            return super().forward(x_TD, context), None
        memory_TH = torch.tanh(self.project(x_TD) + self.tasks[self.known(context)])
        if context.below is not None:
            memory_TH = context.below + memory_TH
        return super().forward(torch.cat([x_TD, memory_TH], 1), context), memory_TH
