"""What selectors that rank the experts of each token have in common: ``ops.route`` does the work.

Letters: T tokens, E experts, K slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

import ops
from workers.moe.selection import Selection, Slots, exact, of_slots
from workers.moe.selectors.base import Selector


class Ranked(Selector):
    """Base of selectors that rank a token's experts by ``(logit + noise) / temperature``.

    They use the first ones, how many is the selector's own rule, weighted by a softmax.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Selector.Config):
        """Settings of all selectors that rank."""

        temperature: float = 1.0
        """Logits are divided by it before the choice and the softmax."""
        noise: float = 0.0
        """Standard deviation of the Gaussian noise on the logits in training."""
        weights: Literal["chosen", "full"] = "chosen"
        """Softmax over the chosen experts, or over all of them (Switch, arXiv 2101.03961), so that
        also the only expert of a token teaches the router."""

        def __post_init__(self) -> None:
            if self.temperature <= 0 or self.noise < 0:
                raise ValueError(
                    "temperature must be above 0 and noise not negative, got "
                    f"{self.temperature} and {self.noise}"
                )

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.temperature, self.noise = config.temperature, config.noise
        self.full = config.weights == "full"

    def noise_like(self, logits_TE: Tensor, training: bool) -> Tensor | None:
        """Noise for a training forward, from torch's global generator; None where there is none."""
        return self.noise * torch.randn_like(logits_TE) if training and self.noise > 0 else None

    def ranked(
        self,
        logits_TE: Tensor,
        allowed_TE: Tensor | None,
        noise_TE: Tensor | None,
        *,
        varies: bool,
        **how: Any,
    ) -> Selection:
        """The selection of ``ops.route`` with the settings ``how``, half types in float32.

        ``varies``: tokens may leave slots unused; those that every token leaves are cut off. A
        token that is allowed no expert chooses none.
        """
        logits_TE = exact(logits_TE)
        selected_TK, weights_TK, counts_E = ops.route(
            logits_TE,
            temperature=self.temperature,
            noise_TE=noise_TE,
            allowed_TE=allowed_TE,
            **how,
        )
        used = None
        if varies and not selected_TK.is_meta:
            most, used = used_slots(selected_TK, counts_E)
            selected_TK, weights_TK = selected_TK[:, :most], weights_TK[:, :most]
        if not self.full:
            return Selection(slots=Slots(selected_TK, weights_TK, counts_E, used))
        noisy_TE = logits_TE if noise_TE is None else logits_TE + noise_TE
        all_TE = self.probabilities(noisy_TE, allowed_TE)
        weights_TK = of_slots(all_TE, selected_TK)
        slots = Slots(selected_TK, weights_TK, counts_E, used)
        return Selection(slots=slots, probabilities_TE=all_TE)


def used_slots(selected_TK: Tensor, counts_E: Tensor) -> tuple[int, int]:
    """(slots that the token with most experts needs, at least one, where unused ones come last; how
    many slots are used in all); one device sync."""
    if not len(selected_TK):
        return selected_TK.shape[1], 0
    most, used = torch.stack([(selected_TK >= 0).any(0).sum(), counts_E.sum()]).tolist()
    return max(1, most), used
