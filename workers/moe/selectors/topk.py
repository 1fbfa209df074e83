"""The top-k selector: only the chosen experts run, on their own tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

import ops
from workers.moe.selection import Selection, Slots
from workers.moe.selectors.base import Selector, check_weights


class TopK(Selector):
    """The k largest logits of each token, weighted by a softmax over the chosen or over all."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Selector.Config):
        """Settings of the top-k selector."""

        kind: str = "topk"
        k: int = 2
        """Experts for each token (all of them while there are fewer)."""
        temperature: float = 1.0
        """Logits are divided by it before the choice and the softmax."""
        noise: float = 0.0
        """Standard deviation of the Gaussian noise on the logits in training."""
        weights: Literal["chosen", "full"] = "chosen"
        """Softmax over the chosen experts, or over all of them (Switch, arXiv 2101.03961), which
        k = 1 needs for its router to learn."""

        def __post_init__(self) -> None:
            if self.k < 1 or self.temperature <= 0 or self.noise < 0:
                raise ValueError(
                    "k must be at least 1, temperature above 0 and noise not negative, got "
                    f"{self.k}, {self.temperature} and {self.noise}"
                )
            check_weights("k", self.k, self.weights)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.k, self.temperature, self.noise = config.k, config.temperature, config.noise
        self.full = config.weights == "full"

    @property
    def fewest(self) -> int:
        return self.k

    def active(self, experts: int) -> float:
        """k, or all while there are fewer."""
        return min(self.k, experts)

    def select(self, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool) -> Selection:
        """See ``Selector.select``; a token that is allowed no expert chooses none."""
        noisy = training and self.noise > 0
        noise_TE = self.noise * torch.randn_like(logits_TE) if noisy else None
        selected_TK, weights_TK, counts_E = ops.route(
            logits_TE,
            selector="topk",
            k=self.k,
            temperature=self.temperature,
            noise_TE=noise_TE,
            allowed_TE=allowed_TE,
        )
        if not self.full:
            return Selection(slots=Slots(selected_TK, weights_TK, counts_E))
        noisy_TE = logits_TE if noise_TE is None else logits_TE + noise_TE
        all_TE = self.probabilities(noisy_TE, allowed_TE)
        weights_TK = all_TE.gather(1, selected_TK.clamp(min=0))
        weights_TK = torch.where(selected_TK >= 0, weights_TK, 0.0)
        slots = Slots(selected_TK, weights_TK, counts_E)
        return Selection(slots=slots, probabilities_TE=all_TE)
