"""Selectors around another one: they narrow what it may choose, or what it chose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers.contract import Json
from workers.moe.losses.base import Loss
from workers.moe.routed import Birth
from workers.moe.selection import Selection
from workers.moe.selectors.base import Selector
from workers.tables import choice, construct


def _selectors() -> Mapping[str, type]:
    from workers.moe.selectors import SELECTORS

    return SELECTORS


class Around(Selector):
    """Base of selectors that hold another one, ``inner``, and answer for it."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Selector.Config):
        """Base of their settings."""

        inner: Any = choice(_selectors, "topk")
        """The selector inside."""

        @property
        def chooses_all(self) -> bool:
            """As the one inside."""
            found: bool = self.inner.chooses_all
            return found

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.inner: Selector = construct(_selectors(), config.inner)
        self.temperature = self.inner.temperature

    @property
    def fewest(self) -> int:
        return self.inner.fewest

    def for_inputs(self, inputs: int) -> None:
        self.inner.for_inputs(inputs)

    def forward(
        self, x_TD: Tensor, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool
    ) -> Selection:
        """See ``Selector.forward``; by default as the one inside."""
        found: Selection = self.inner(x_TD, logits_TE, allowed_TE, training)
        return found

    def active(self, experts: int) -> float:
        return self.inner.active(experts)

    def probabilities(self, logits_TE: Tensor, allowed_TE: Tensor | None) -> Tensor:
        return self.inner.probabilities(logits_TE, allowed_TE)

    def logit_shift(self, ratio: float) -> float:
        return self.inner.logit_shift(ratio)

    def losses(self) -> tuple[Loss, ...]:
        return self.inner.losses()

    def experts_changed(self, births: Mapping[int, Birth]) -> None:
        self.inner.experts_changed(births)

    def step_begins(self) -> None:
        self.inner.step_begins()

    def summed(self, experts: int) -> Mapping[str, int]:
        return self.inner.summed(experts)

    def take(self, sums: Mapping[str, Tensor]) -> dict[str, list[float]]:
        return self.inner.take(sums)

    def unserved(self) -> Tensor | None:
        return self.inner.unserved()

    def parameters_of(self, expert: int) -> Iterable[nn.Parameter]:
        return self.inner.parameters_of(expert)

    def arch(self) -> Json:
        return self.inner.arch()

    def ensure_arch(self, arch: Json) -> None:
        self.inner.ensure_arch(arch)


def narrowed(allowed_TE: Tensor | None, kept_TE: Tensor) -> Tensor:
    """Bool [T, E]: of the allowed experts those that are kept; a token of which none is left may
    choose what it was allowed."""
    if allowed_TE is None:
        return kept_TE | ~kept_TE.any(1, keepdim=True)
    both_TE = allowed_TE & kept_TE
    return torch.where(both_TE.any(1, keepdim=True), both_TE, allowed_TE)
