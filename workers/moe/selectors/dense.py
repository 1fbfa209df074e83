"""The dense selector: every live expert on every token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from workers.moe.selection import Selection
from workers.moe.selectors.base import Selector, check_weights, largest


class Dense(Selector):
    """All live experts, weighted by the softmax of their logits; the k largest if limited."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Selector.Config):
        """Settings of the dense selector."""

        kind: str = "dense"
        temperature: float = 1.0
        """Logits are divided by it before the softmax."""
        output_max_k: int | None = None
        """Choose the k largest logits of a token only (DynamicMoE, arXiv 2511.18987); None = all.
        All experts are computed nevertheless."""
        weights: Literal["chosen", "full"] = "chosen"
        """Softmax over the chosen experts, or over all of them (Switch, arXiv 2101.03961)."""

        def __post_init__(self) -> None:
            if self.temperature <= 0:
                raise ValueError(f"temperature must be above 0, got {self.temperature}")
            if self.output_max_k is not None and self.output_max_k < 1:
                raise ValueError(f"output_max_k must be at least 1, got {self.output_max_k}")
            check_weights("output_max_k", self.output_max_k, self.weights)

        @property
        def chooses_all(self) -> bool:
            """True without ``output_max_k``: every token then chooses every expert."""
            return self.output_max_k is None

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.limit, self.temperature = config.output_max_k, config.temperature
        self.full = config.weights == "full"

    def active(self, experts: int) -> float:
        """``min(output_max_k, experts)``; all experts without a limit."""
        return min(self.limit or experts, experts)

    def select(self, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool) -> Selection:
        """See ``Selector.select``; every token must be allowed at least one expert."""
        if allowed_TE is not None:
            logits_TE = logits_TE.masked_fill(~allowed_TE, float("-inf"))
        if self.limit is None or self.limit >= logits_TE.shape[1]:
            gates_TE = torch.softmax(logits_TE / self.temperature, -1)
            return Selection(allowed_TE, gates_TE, dense=True, probabilities_TE=gates_TE)
        chosen_TE = largest(logits_TE, self.limit)
        if allowed_TE is not None:
            chosen_TE &= allowed_TE
        if self.full:
            gates_TE = torch.softmax(logits_TE / self.temperature, -1)
            return Selection(chosen_TE, gates_TE * chosen_TE, dense=True, probabilities_TE=gates_TE)
        open_TE = logits_TE.masked_fill(~chosen_TE, float("-inf"))
        return Selection(chosen_TE, torch.softmax(open_TE / self.temperature, -1), dense=True)
