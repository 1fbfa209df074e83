"""The dense selector: every live expert on every token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.moe.selectors.base import Bank, largest


class Dense:
    """All live experts, weighted by the softmax of their logits."""

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
    ) -> tuple[Tensor, Tensor]:
        """See ``Selector.mix``; every token must be allowed at least one expert."""
        if allowed_TE is not None:
            logits_TE = logits_TE.masked_fill(~allowed_TE, float("-inf"))
        gates_TE = torch.softmax(logits_TE / self.temperature, -1)
        if grad_max_k is None or grad_max_k >= logits_TE.shape[1]:
            return bank.mixture(x_TD, gates_TE), gates_TE
        learning_TE = largest(logits_TE, grad_max_k).to(gates_TE.dtype)
        y_TO = bank.mixture(x_TD, gates_TE * learning_TE)
        return y_TO + bank.mixture(x_TD, gates_TE * (1 - learning_TE), frozen=True), gates_TE
