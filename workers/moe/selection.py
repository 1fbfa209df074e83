"""What a selector answers: which experts run for a token, and the weights of their outputs.

Letters: T tokens, E experts, K slots, G domains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

import ops


@dataclass(frozen=True, slots=True)
class Slots:
    """The chosen experts of each token in K slots, best first, as ``ops.permute`` takes them."""

    selected_TK: Tensor
    """Places of experts, int64; -1 = unused slot."""
    weights_TK: Tensor
    """Weights of their outputs; 0 in unused slots."""
    counts_E: Tensor
    """Tokens that chose each expert, int64."""
    used: int | None = None
    """Slots that are used, where tokens leave some unused; None = nobody counted."""

    def chosen(self, experts: int, first: int | None = None) -> Tensor:
        """Bool [T, experts]: is the expert in one of the token's ``first`` slots (None = all)?"""
        selected_TK = self.selected_TK[:, :first]
        marked = torch.zeros(
            (len(selected_TK), experts + 1), dtype=torch.bool, device=selected_TK.device
        )
        marked.scatter_(1, selected_TK.where(selected_TK >= 0, experts), True)
        return marked[:, :experts]


class Selection:
    """Experts and weights of T tokens.

    A selector with a fixed number of experts hands its slots along, so that nothing is sorted
    twice; another one gives ``chosen`` and ``weights`` only, with any number of experts for each
    token, none included.
    """

    def __init__(
        self,
        chosen_TE: Tensor | None = None,
        weights_TE: Tensor | None = None,
        *,
        slots: Slots | None = None,
        dense: bool = False,
        probabilities_TE: Tensor | None = None,
        sums: Mapping[str, Tensor] | None = None,
    ) -> None:
        """``chosen``: bool [T, E]; None = what the slots say, all experts without slots.
        ``weights``: [T, E], 0 where not chosen; None = what the slots say. ``dense``: run every
        expert on every token, which costs less where most are chosen. ``probabilities``: the
        softmax over all allowed experts, where the selector has it anyway. ``sums``: figures of
        these tokens that are added up over an interval's training (``Selector.summed``)."""
        assert weights_TE is not None or slots is not None
        self._chosen_TE, self._weights_TE = chosen_TE, weights_TE
        self.slots, self.dense, self.probabilities_TE = slots, dense, probabilities_TE
        self.sums: Mapping[str, Tensor] = sums or {}

    @property
    def tokens(self) -> int:
        """T."""
        return len(self.slots.selected_TK if self.slots is not None else self.weights_TE)

    @property
    def experts(self) -> int:
        """E."""
        return len(self.slots.counts_E) if self.slots is not None else self.weights_TE.shape[1]

    @property
    def complete(self) -> bool:
        """Whether it is known without looking that every token chose every expert."""
        return self._chosen_TE is None and self.slots is None

    @property
    def chosen_TE(self) -> Tensor:
        """Which experts each token chose, bool."""
        if self._chosen_TE is None and self.slots is not None:
            self._chosen_TE = self.slots.chosen(self.experts)
        if self._chosen_TE is None:
            return torch.ones_like(self.weights_TE, dtype=torch.bool)
        return self._chosen_TE

    @property
    def weights_TE(self) -> Tensor:
        """Weight of each expert's output, 0 where it was not chosen."""
        if self._weights_TE is None:
            assert self.slots is not None
            self._weights_TE = self._scattered(self.slots.weights_TK)
        return self._weights_TE

    def weight_sums(self) -> Tensor:
        """Sum of each expert's weights over the tokens [E], without a graph."""
        if self._weights_TE is None and self.slots is not None:
            return exact(self._scattered(self.slots.weights_TK.detach())).sum(0)
        return exact(self.weights_TE.detach()).sum(0)

    def choices_by(self, domain_T: Tensor, domains: int) -> Tensor:
        """Tokens of each domain that chose each expert, int64 [G, E]."""
        if self.slots is not None:
            return ops.usage(self.slots.selected_TK, domain_T, self.experts, domains).t()
        chosen_TE = self.chosen_TE
        counted = torch.zeros((domains, self.experts), dtype=torch.int64, device=chosen_TE.device)
        return counted.index_add_(0, domain_T, chosen_TE.to(torch.int64))

    def as_slots(self) -> Slots:
        """The selector's slots, or as many slots as the token with most experts needs."""
        if self.slots is not None:
            return self.slots
        chosen_TE, weights_TE = self.chosen_TE, self.weights_TE
        per_token = chosen_TE.sum(1)
        most, used = (self.experts, None) if per_token.is_meta else _most(per_token)
        ranked_TE = exact(weights_TE.detach()).masked_fill(~chosen_TE, float("-inf"))
        selected_TK, _, counts_E = ops.route(ranked_TE, selector="topk", k=most)
        weights_TK = of_slots(weights_TE, selected_TK)
        return Slots(selected_TK, weights_TK, counts_E, used)

    def _scattered(self, weights_TK: Tensor) -> Tensor:
        assert self.slots is not None
        empty_TE = weights_TK.new_zeros((len(weights_TK), self.experts))
        return empty_TE.scatter_add(1, self.slots.selected_TK.clamp(min=0), weights_TK)


def of_slots(values_TE: Tensor, selected_TK: Tensor) -> Tensor:
    """What a table over experts says of the chosen ones [T, K]; 0 in unused slots."""
    return torch.where(selected_TK >= 0, values_TE.gather(1, selected_TK.clamp(min=0)), 0.0)


def best_first(selected_TK: Tensor, weights_TK: Tensor) -> tuple[Tensor, Tensor]:
    """The slots of each token by falling weight, unused ones last."""
    rank_TK = weights_TK.detach().masked_fill(selected_TK < 0, -1.0)
    order_TK = rank_TK.argsort(dim=1, descending=True, stable=True)
    return selected_TK.gather(1, order_TK), weights_TK.gather(1, order_TK)


def _most(per_token: Tensor) -> tuple[int, int]:
    """(slots that all tokens fit into, at least one; how many are used); one device sync."""
    if not len(per_token):
        return 1, 0
    most, used = torch.stack([per_token.max(), per_token.sum()]).tolist()
    return max(1, most), used


def exact(x: Tensor) -> Tensor:
    """Half types as float32, in which sums and logarithms are taken; others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
