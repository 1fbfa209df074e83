"""Learned top-any: a small net decides how many of a token's best experts run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.contract import LaneSettings
from workers.moe.losses.base import Loss
from workers.moe.routed import Routed
from workers.moe.selection import Selection, exact
from workers.moe.selectors.base import Selector
from workers.tables import Problem


class LearnedTopAny(Selector):
    """Of a token's k best experts the first c, c = 1..k as a net says (MC#, arXiv 2510.10962).

    The net reads the features x and the k largest weights w (softmax over them),
    ``m = U [V x; w]`` with V to k numbers. In training c is drawn as the argmax of m plus Gumbel
    noise, with the gradient of its softmax at ``temperature``; otherwise it is the argmax of m. The
    candidates are the prefixes of the ranking. Weights that remain are scaled to sum 1. In training
    all k experts run, those cut off with weight 0, so that the net learns what they would have
    given.

    Losses, over pi = softmax(m): ``topany_sparsity``, the expected share ``sum_c pi_c c / k``, and
    ``topany_fidelity``, the expected weight that is cut off ``sum_c pi_c sum_{j > c} w_j``, which
    bounds how far the mixture moves from the unpruned one per unit of the experts' outputs. It
    stands for the source's distillation, which passes everything twice.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Selector.Config):
        """Settings of learned top-any."""

        kind: str = "learned_topany"
        k: int = 2
        """Most experts of a token."""
        temperature: float = 1.0
        """Of the Gumbel softmax; the experts' weights have temperature 1."""
        sparsity: float = 0.01
        """Weight of the loss on the number of experts."""
        fidelity: float = 0.01
        """Weight of the loss on what is cut off; its ratio to ``sparsity`` decides how much a
        dropped expert may weigh: about ``sparsity / (k fidelity)`` if nothing else spoke."""

        def __post_init__(self) -> None:
            if self.k < 2 or self.temperature <= 0 or min(self.sparsity, self.fidelity) < 0:
                raise ValueError(
                    "k must be at least 2, temperature above 0, sparsity and fidelity not "
                    f"negative, got {self.k}, {self.temperature}, {self.sparsity} and "
                    f"{self.fidelity}"
                )

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """What learns from what it does must do what it learns with."""
            if not lane.acts:
                return []
            allowed = "it would draw experts when it learns and not when it acts: use topk"
            return [Problem("kind", "the lane learns from what its model does", allowed)]

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.k = config, config.k

    def for_inputs(self, inputs: int) -> None:
        """The net starts undecided, so that its noise tries every number."""
        self.features = nn.Linear(inputs, self.k, bias=False)
        self.lengths = nn.Linear(2 * self.k, self.k)
        nn.init.zeros_(self.lengths.weight)
        nn.init.zeros_(self.lengths.bias)

    def active(self, experts: int) -> float:
        """k in training; what evaluation saves is known once it is trained."""
        return min(self.k, experts)

    def losses(self) -> tuple[Loss, ...]:
        return (
            Sparsity(Sparsity.Config(weight=self.config.sparsity)),
            Fidelity(Fidelity.Config(weight=self.config.fidelity)),
        )

    def forward(
        self, x_TD: Tensor, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool
    ) -> Selection:
        """See ``Selector.forward``; a token that is allowed no expert chooses none."""
        if allowed_TE is not None:
            logits_TE = logits_TE.masked_fill(~allowed_TE, float("-inf"))
        best_TK, place_TK = logits_TE.topk(min(self.k, logits_TE.shape[1]), dim=1)
        weights_TK = ranked_weights(best_TK)
        scores_TC = self.scores(x_TD, weights_TK)
        if training:
            drawn_TC = functional.gumbel_softmax(scores_TC, self.config.temperature, hard=True)
        else:
            drawn_TC = functional.one_hot(scores_TC.argmax(1), scores_TC.shape[1]).float()
        kept_TK = drawn_TC.flip(1).cumsum(1).flip(1)  # position j runs if c > j
        left_TK = weights_TK * kept_TK
        left_TK = left_TK / left_TK.sum(1, keepdim=True).clamp_min(1e-9)
        runs_TK = weights_TK > 0 if training else left_TK > 0
        nothing = torch.zeros_like(logits_TE, dtype=torch.float32)
        weights_TE = nothing.scatter(1, place_TK, left_TK).to(logits_TE.dtype)
        chosen_TE = torch.zeros_like(logits_TE, dtype=torch.bool).scatter(1, place_TK, runs_TK)
        return Selection(chosen_TE, weights_TE)

    def scores(self, x_TD: Tensor, weights_TK: Tensor) -> Tensor:
        """m [T, C] in float32: how much the net wants the first 1..C experts, C = min(k, E)."""
        short = self.k - weights_TK.shape[1]
        weights_TK = functional.pad(weights_TK.detach(), (0, short))
        seen_TK = functional.linear(exact(x_TD), exact(self.features.weight))
        both = torch.cat([seen_TK, weights_TK], 1)
        scores_TK = functional.linear(both, exact(self.lengths.weight), exact(self.lengths.bias))
        return scores_TK[:, : self.k - short]


def ranked_weights(best_TK: Tensor) -> Tensor:
    """Softmax over a token's best logits, largest first, in float32; 0 where it has none."""
    weights_TK = torch.softmax(exact(best_TK), 1)
    return torch.where(torch.isneginf(best_TK), 0.0, weights_TK.nan_to_num(0.0))


class _Expected(Loss):
    """Base of losses over what the net wants, without noise."""

    def wanted(self, routed: Routed) -> tuple[Tensor, Tensor]:
        """pi [T, C] and the weights of the C best experts [T, C], without gradient to the router.

        Of all experts: what a domain may choose is not told here.
        """
        net: LearnedTopAny = routed.selector
        experts = min(net.k, routed.logits.shape[1])
        weights_TK = ranked_weights(routed.logits.detach().topk(experts, dim=1).values)
        return torch.softmax(net.scores(routed.x.detach(), weights_TK), 1), weights_TK


class Sparsity(_Expected):
    """Expected share of the k experts that run, ``sum_c pi_c c / k``, mean over tokens."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Loss.Config):
        """Settings of the sparsity loss."""

        kind: str = "topany_sparsity"

    def loss(self, routed: Routed) -> Tensor:
        """See ``Loss.loss``."""
        pi_TC, _ = self.wanted(routed)
        count_C = torch.arange(1, pi_TC.shape[1] + 1, device=pi_TC.device)
        return (pi_TC * count_C).sum(1).mean() / routed.selector.k


class Fidelity(_Expected):
    """Expected weight of the experts that are cut off, ``sum_c pi_c sum_{j>c} w_j``, mean."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Loss.Config):
        """Settings of the fidelity loss."""

        kind: str = "topany_fidelity"

    def loss(self, routed: Routed) -> Tensor:
        """See ``Loss.loss``."""
        pi_TC, weights_TC = self.wanted(routed)
        return (pi_TC * (weights_TC.sum(1, keepdim=True) - weights_TC.cumsum(1))).sum(1).mean()
