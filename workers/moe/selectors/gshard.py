"""GShard routing: two experts, the second at random by its weight, within their capacity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from workers.moe.selection import Selection, Slots, best_first
from workers.moe.selectors.capacity import arrivals, check_capacity, places
from workers.moe.selectors.ranked import Ranked


class GShard(Ranked):
    """The two best experts of each token, the second kept at random; full experts drop tokens.

    ``w_1 = p_1 / (p_1 + p_2)``, ``w_2 = 1 - w_1`` (GShard, arXiv 2006.16668, algorithm 1). In
    training the second expert runs with probability ``min(1, 2 w_2)``, and an expert takes
    ``ceil(capacity 2 n / E)`` of the n tokens of a forward: those that chose it first before those
    that chose it second, in token order. Weights of what is left stay as they were. The layer
    answers 0 for a token that lost both. Without training nothing is dropped. Workers that train
    one lane, and the parts of a step, count their own tokens. Made for the loss ``balance``.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Ranked.Config):
        """Settings of GShard routing."""

        kind: str = "gshard"
        capacity: float = 1.0
        """Capacity factor: 1 = just enough places where all experts are chosen alike."""
        second: Literal["random", "all"] = "random"
        """Whether the second expert is drawn by its weight in training, or always runs."""

        def __post_init__(self) -> None:
            check_capacity(self.capacity)
            Ranked.Config.__post_init__(self)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.capacity, self.random = config.capacity, config.second == "random"

    @property
    def fewest(self) -> int:
        return 2

    def active(self, experts: int) -> float:
        """2, all while there are fewer: what evaluation runs, and training at most."""
        return min(2, experts)

    def select(self, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool) -> Selection:
        """See ``Selector.select``."""
        noise_TE = self.noise_like(logits_TE, training)
        found = self.ranked(logits_TE, allowed_TE, noise_TE, varies=False, selector="topk", k=2)
        return self._limited(found) if training and found.tokens else found

    def _limited(self, found: Selection) -> Selection:
        slots, experts = found.as_slots(), found.experts
        selected_TK = slots.selected_TK
        if self.random and selected_TK.shape[1] == 2:
            share_T = slots.weights_TK[:, 1] / slots.weights_TK.sum(1).clamp(min=1e-9)
            kept_T = torch.rand_like(share_T) < 2.0 * share_T.detach()
            second_T = selected_TK[:, 1].where(kept_T, -1)
            selected_TK = torch.stack([selected_TK[:, 0], second_T], 1)
        capacity = places(self.capacity, selected_TK.shape[1] * len(selected_TK), experts)
        used_TK = (selected_TK >= 0) & (arrivals(selected_TK) < capacity)
        selected_TK = selected_TK.where(used_TK, -1)
        weights_TK = torch.where(used_TK, slots.weights_TK, 0.0)
        counts = selected_TK.new_zeros(experts + 1)
        place_S = selected_TK.where(used_TK, experts).reshape(-1)
        counts = counts.scatter_add(0, place_S, torch.ones_like(place_S))
        left = Slots(*best_first(selected_TK, weights_TK), counts[:experts])
        return Selection(slots=left, probabilities_TE=found.probabilities_TE)
