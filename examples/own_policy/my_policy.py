"""A policy from outside the repository."""

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.policies import Policy
from workers.edits import Grow


class GrowWhereHard(Policy):
    """Grow when a task's first interval ends with a loss far above that of the task before."""

    proposes: ClassVar[tuple[str, ...]] = ("grow",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """How many times as large the loss must be."""

        kind: str
        factor: float = 1.2
        max_experts: int = 4

        def __post_init__(self):
            if self.factor <= 0:
                raise ValueError(f"factor must be positive, got {self.factor}")

    def propose(self, view, memory):
        if view.n != 1:
            return (), memory
        loss = view.report.metrics["loss"]
        room = view.model.experts < self.config.max_experts
        if memory is None or not room or loss <= self.config.factor * memory:
            return (), loss
        cause = view.edit(
            policy="grow where hard", trigger="loss", figures={"loss": loss, "before": memory}
        )
        return (Grow(**cause, experts=view.model.experts + 1),), loss

    def final_experts(self, start, stages, steps_per_stage):
        return self.config.max_experts
