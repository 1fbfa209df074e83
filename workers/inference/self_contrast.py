"""A model's answers sharpened by what its own, worse routing would have answered."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.inference.base import Forward, InferencePolicy, log_probabilities
from workers.inference.steering import Rule, only, steered


class SelfContrast(InferencePolicy):
    """Outputs in contrast with those of a weaker routing: ``z = (1 + b) z_strong - b z_weak``.

    SCMoE (arXiv 2405.14507): strong is the model as it was trained, weak the same model with the
    expert of rank ``rank`` alone in each layer. The contrast decides among the outputs with
    ``p_strong >= a max p_strong`` and shares their probability out; the others keep theirs, so that
    a likelihood stays finite. The source gives them none; the largest output is the same.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(InferencePolicy.Config):
        """The contrast's strength and reach."""

        kind: str = "self_contrast"
        a: float = 0.1
        """Probability, as a share of the largest, from which an output is contrasted."""
        b: float = 0.5
        """How strongly the weak answer is taken off."""
        rank: int = 2
        """Which expert answers weakly, by its logit; the last one where a layer has fewer."""

        def __post_init__(self) -> None:
            if not 0 < self.a <= 1 or self.b < 0 or self.rank < 1:
                raise ValueError(
                    "a must be above 0 and at most 1, b not negative and rank at least 1, got "
                    f"{self.a}, {self.b} and {self.rank}"
                )

    config: SelfContrast.Config
    needs_logits = True

    def answer(self, forward: Forward, x: Tensor) -> Tensor:
        strong, rule = forward(x), of_rank(self.config.rank)
        with steered(self.subject.layers, dict.fromkeys(self.subject.layers, rule)):
            weak = forward(x)
        return contrasted(strong, weak, self.config.a, self.config.b)


def of_rank(rank: int) -> Rule:
    """Only the expert with the ``rank``-th largest logit of those allowed, with weight 1."""

    def choose(logits_TE: Tensor) -> tuple[Tensor, Tensor]:
        open_T = (logits_TE > float("-inf")).sum(-1)
        order_TE = logits_TE.argsort(stable=True, dim=-1, descending=True)
        place_T1 = (open_T.clamp(max=rank) - 1).clamp(min=0).unsqueeze(1)
        chosen_TE = torch.zeros_like(logits_TE, dtype=torch.bool)
        chosen_TE.scatter_(1, order_TE.gather(1, place_T1), True)
        chosen_TE &= logits_TE > float("-inf")
        return chosen_TE, chosen_TE.to(logits_TE.dtype)

    return only(choose)


def contrasted(strong: Tensor, weak: Tensor, a: float, b: float) -> Tensor:
    """Log probabilities after the contrast, of logits [..., V]."""
    strong, weak = log_probabilities(strong), log_probabilities(weak)
    near = strong >= strong.amax(-1, keepdim=True) + math.log(a)
    z = torch.where(near, (1 + b) * strong - b * weak, float("-inf"))
    mass = torch.where(near, strong, float("-inf")).logsumexp(-1, keepdim=True)
    return torch.where(near, torch.log_softmax(z, -1) + mass, strong)
