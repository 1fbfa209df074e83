"""The dense selector: every live expert on every token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from workers.moe.selectors.base import Bank, largest


class Dense:
    """All live experts, weighted by the softmax of their logits."""

    chooses_all: ClassVar[bool] = True

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the dense selector."""

        kind: str = "dense"
        temperature: float = 1.0
        """Logits are divided by it before the softmax."""

        def __post_init__(self) -> None:
            if self.temperature <= 0:
                raise ValueError(f"temperature must be above 0, got {self.temperature}")

    def __init__(self, config: Config) -> None:
        self.temperature = config.temperature

    def active(self, experts: int) -> int:
        """All of them."""
        return experts

    def mix(
        self,
        bank: Bank,
        x_TD: Tensor,
        logits_TE: Tensor,
        *,
        grad_max_k: int | None,
        allowed_TE: Tensor | None,
        training: bool,
        learning_TE: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See ``Selector.mix``; every token must be allowed at least one expert."""
        if allowed_TE is not None:
            logits_TE = logits_TE.masked_fill(~allowed_TE, float("-inf"))
        gates_TE = torch.softmax(logits_TE / self.temperature, -1)
        if grad_max_k is not None and grad_max_k >= logits_TE.shape[1]:
            grad_max_k = None
        if grad_max_k is None and learning_TE is None:
            return bank.mixture(x_TD, gates_TE), gates_TE
        learners_TE, rest = gates_TE, []
        if grad_max_k is not None:
            near_TE = largest(logits_TE, grad_max_k).to(gates_TE.dtype)
            rest.append(bank.mixture(x_TD.detach(), gates_TE * (1 - near_TE), frozen=True))
            learners_TE = gates_TE * near_TE
        if learning_TE is not None:
            free_TE = learning_TE.to(gates_TE.dtype)
            rest.append(bank.mixture(x_TD, learners_TE * (1 - free_TE), frozen=True))
            learners_TE = learners_TE * free_TE
        return sum(rest, bank.mixture(x_TD, learners_TE)), gates_TE
