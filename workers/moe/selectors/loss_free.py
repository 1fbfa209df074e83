"""Loss-free balancing: biases that follow the load decide the choice, not the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

import ops
from workers.contract import LaneSettings
from workers.moe.growth.growable import with_zero
from workers.moe.routed import Birth
from workers.moe.selection import Selection, Slots, best_first, exact, of_slots
from workers.moe.selectors.base import Selector, one_learner
from workers.tables import Problem


class LossFree(Selector):
    """The k experts with the largest score plus bias; biases push against the load of a step.

    ``TopK(s_e + b_e)``, weights s_e without the bias; once a step
    ``b_e <- b_e + rate * sign(mean_e' c_e' - c_e)``, c_e the share of the last step's tokens that
    chose e (arXiv 2408.15664, equation 3 and algorithm 1). The load is that of all parts of a step
    and of all workers. A copy of an expert starts with its parent's bias, another new one with 0.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Selector.Config):
        """Settings of loss-free balancing."""

        kind: str = "loss_free"
        k: int = 2
        """Experts for each token (all of them while there are fewer)."""
        scores: Literal["sigmoid", "softmax"] = "sigmoid"
        """s: each expert's own sigmoid, as in the paper, or the softmax over all."""
        weights: Literal["scores", "normalised"] = "scores"
        """s as it is, as in the paper, or divided by its sum over the chosen experts."""
        rate: float = 0.001
        """How far a bias moves in a step."""
        temperature: float = 1.0
        """Logits are divided by it before the scores."""

        def __post_init__(self) -> None:
            if self.k < 1 or self.temperature <= 0 or self.rate < 0:
                raise ValueError(
                    "k must be at least 1, temperature above 0 and rate not negative, got "
                    f"{self.k}, {self.temperature} and {self.rate}"
                )
            if self.k == 1 and self.weights == "normalised":
                raise ValueError(
                    "weights must be 'scores' with k = 1: the one chosen expert would have weight "
                    "1 whatever its score, and the router would never learn"
                )

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Its biases are kept alike over the workers of a supervised lane only."""
            return one_learner(lane)

    bias: Tensor
    load: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.k, self.temperature = config, config.k, config.temperature
        self.register_buffer("bias", torch.zeros(0))
        self.register_buffer("load", torch.zeros(0))
        self._ids: tuple[int, ...] = ()

    @property
    def fewest(self) -> int:
        return self.k

    def active(self, experts: int) -> float:
        """k, or all while there are fewer."""
        return min(self.k, experts)

    def logit_shift(self, ratio: float) -> float:
        """Exact for softmax scores; for sigmoid ones where they are small, as no shift is exact."""
        return super().logit_shift(ratio)

    def experts_changed(self, births: Mapping[int, Birth]) -> None:
        """Biases and loads stay with their experts."""
        known = {number: place for place, number in enumerate(self._ids)}
        new = len(known)  # the place of a zero behind the others
        own = [known.get(number, new) for number in births]
        parents = [known.get(-1 if x.parent is None else x.parent, new) for x in births.values()]
        sources = [up if mine == new else mine for mine, up in zip(own, parents, strict=True)]
        self.bias, self.load = with_zero(self.bias)[sources], with_zero(self.load)[own]
        self._ids = tuple(births)

    def step_begins(self) -> None:
        """Move the biases by the load of the last step."""
        away_E = (self.load.mean() - self.load).sign() if len(self.load) else self.load
        self.bias = self.bias + self.config.rate * away_E
        self.load = torch.zeros_like(self.load)

    def select(self, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool) -> Selection:
        """See ``Selector.select``; a token that is allowed no expert chooses none."""
        logits_TE, sigmoid = exact(logits_TE), self.config.scores == "sigmoid"
        scores_TE = (
            (logits_TE / self.temperature).sigmoid()
            if sigmoid
            else self.probabilities(logits_TE, allowed_TE)
        )
        selected_TK, _, counts_E = ops.route(
            scores_TE.detach() + self.bias, selector="topk", k=self.k, allowed_TE=allowed_TE
        )
        if training and len(logits_TE):
            self.load = self.load + counts_E / len(logits_TE)
        weights_TK = of_slots(scores_TE, selected_TK)
        if self.config.weights == "normalised":
            weights_TK = weights_TK / weights_TK.sum(1, keepdim=True).clamp(min=1e-9)
        # the bias decides who is chosen, not who is best
        return Selection(slots=Slots(*best_first(selected_TK, weights_TK), counts_E))
