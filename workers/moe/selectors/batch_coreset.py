"""The batch coreset: the tokens of a batch share a small set of experts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from workers.contract import LaneSettings
from workers.moe.routed import Birth
from workers.moe.selection import Selection, exact
from workers.moe.selectors.around import narrowed
from workers.moe.selectors.base import largest, one_learner
from workers.moe.selectors.topk import TopK
from workers.tables import Problem


class BatchCoreset(TopK):
    """Top-k inside a set of experts that the whole batch shares (arXiv 2602.00879).

    Of T tokens with logits r, the set C is by ``seq`` the union of each token's ``first`` largest,
    ``C = union_t TopK(r_t, k')``, and by ``vote`` the ``ceil(share E)`` experts with most votes
    ``V_e = sum_t p_te [e in TopK(r_t, k)]``, p the softmax over all experts. Each token then takes
    its k largest in C, weighted by the softmax over them. It bounds the experts whose weights a
    kernel has to read; each worker, and each part of an accumulated step, has a batch of its own.

    Outside training C is fixed, so that no token's answer depends on its neighbours': the experts
    with the most votes over recent training batches, as many as their sets had on average. In
    training a token's choice does depend on the rest of its batch, later tokens of its sequence
    included. A token that may choose no expert of C chooses among what it may.
    """

    votes: Tensor
    size: Tensor

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(TopK.Config):
        """Settings of the batch coreset, with those of top-k."""

        kind: str = "batch_coreset"
        rule: Literal["seq", "vote"] = "vote"
        """How the set is made."""
        first: int = 1
        """k': by ``seq`` the experts of each token that are in the set, at most k."""
        share: float = 0.5
        """beta: by ``vote`` the share of the experts that are in the set."""
        momentum: float = 0.9
        """Of the running votes and size, by training batches."""

        def __post_init__(self) -> None:
            # super() has no cell to look in here: a dataclass with slots is a second class.
            TopK.Config.__post_init__(self)
            if not (1 <= self.first <= self.k and 0 < self.share <= 1 and 0 <= self.momentum < 1):
                raise ValueError(
                    "first must be 1 to k, share above 0 and at most 1, momentum at least 0 and "
                    f"below 1, got {self.first}, {self.share} and {self.momentum}"
                )

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """What learns from what it does must do what it learns with; one learner's votes."""
            if not lane.acts:
                return one_learner(lane)
            allowed = (
                "it would learn with the experts of a batch and act with others: use topk or dense"
            )
            return [Problem("kind", "the lane acts one step at a time", allowed)]

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.settings = config
        self._ids: tuple[int, ...] = ()
        self.register_buffer("votes", torch.zeros(0))  # mean votes of a token for each expert
        self.register_buffer("size", torch.zeros(()))  # experts of a set; 0 = none was made yet

    def active(self, experts: int) -> float:
        """k, or as many as the set has."""
        if self.settings.rule == "vote":
            experts = _of(self.settings.share, experts)
        return min(self.k, experts)

    def experts_changed(self, births: Mapping[int, Birth]) -> None:
        """New experts have no votes yet."""
        known = dict(zip(self._ids, self.votes, strict=True))
        fresh = self.votes.new_zeros(())
        self._ids = tuple(births)
        self.votes = torch.stack([known.get(number, fresh) for number in births])

    def select(self, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool) -> Selection:
        """See ``Selector.select``."""
        if training and len(logits_TE):
            core_E = self._core(exact(logits_TE.detach()), allowed_TE)
        else:
            core_E = self.running()
        kept_TE = core_E.expand(logits_TE.shape)
        return super().select(logits_TE, narrowed(allowed_TE, kept_TE), training)

    def running(self) -> Tensor:
        """Bool [E]: the set of recent batches; all experts before the first."""
        size = int(self.size.round())
        if size == 0:
            return torch.ones_like(self.votes, dtype=torch.bool)
        return largest(self.votes.unsqueeze(0), min(size, len(self.votes))).squeeze(0)

    def _core(self, logits_TE: Tensor, allowed_TE: Tensor | None) -> Tensor:
        """Bool [E]: the set of these tokens; running votes and size follow it."""
        settings, experts = self.settings, logits_TE.shape[1]
        all_TE = self.probabilities(logits_TE, allowed_TE)
        if settings.rule == "seq":
            first_TE = largest(all_TE, min(settings.first, experts)) & (all_TE > 0)
            core_E, votes_E = first_TE.any(0), first_TE.float().mean(0)
        else:
            mine_TE = largest(all_TE, min(self.k, experts))
            votes_E = (all_TE * mine_TE).mean(0)
            core_E = largest(votes_E.unsqueeze(0), _of(settings.share, experts)).squeeze(0)
        rest = 0.0 if not self.size else settings.momentum
        self.votes = rest * self.votes + (1 - rest) * votes_E
        self.size = rest * self.size + (1 - rest) * core_E.sum()
        return core_E


def _of(share: float, experts: int) -> int:
    """ceil(share E), whatever rounding says of the product."""
    return max(1, math.ceil(share * experts - 1e-9))
