"""The contract of ways from a dense feed-forward to experts. Knows no model and no layer.

Letters: E experts, W hidden units of the dense feed-forward, D inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from workers.contract import InputError
from workers.moe.experts.feed_forward import FeedForward

ROUTER_SPREAD = 0.02
"""Standard deviation of the router's initial weights."""


class Upcycle:
    """Base: which hidden units of a dense feed-forward each expert gets, and by how much its
    output map is scaled. It counts on weights of a token's experts that add up to 1."""

    cuts: ClassVar[bool] = True
    """Whether experts are parts of the feed-forward, which must then be two maps."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the mixture; ``kind`` is its name in the table."""

        kind: str

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def experts(self) -> int:
        """Experts of each mixture; 0 = the model stays as it is."""
        found: int = self.config.experts
        return found

    @property
    def k(self) -> int:
        """Experts that a token runs through."""
        found: int = self.config.k
        return found

    @property
    def pieces(self) -> int:
        """Parts that the hidden units are cut into."""
        return self.experts

    scale: float = 1.0
    """Factor on the experts' output maps, their biases left out: as a token's weights add up to 1,
    a bias that all experts have counts once."""

    def width(self, dense: int) -> int:
        """Hidden units of an expert, given those of the dense feed-forward."""
        if dense % self.pieces:
            raise InputError(
                f"upcycle {self.config.kind}: the feed-forward has {dense} hidden units, which "
                f"{self._divisor} does not divide; choose another number"
            )
        return dense // self.pieces

    def units(self, whole: FeedForward) -> list[Tensor]:
        """Hidden units of each expert, int64 [W / pieces] each."""
        raise NotImplementedError

    def parts(self, whole: FeedForward) -> Iterator[FeedForward]:
        """What each expert is made of; draws from torch's default generator, where it draws."""
        for units in self.units(whole):
            yield whole.part(units, self.scale)

    def rows(self, inputs: int) -> Tensor:
        """Initial weights of the router [E, inputs], drawn from torch's default generator."""
        return torch.randn(self.experts, inputs) * ROUTER_SPREAD

    @property
    def _divisor(self) -> str:
        return f"experts = {self.pieces}"


def check_counts(experts: int, k: int) -> None:
    """Refuse numbers of experts that make no mixture."""
    if not 1 <= k <= experts or experts < 2:
        raise ValueError(f"need at least 2 experts and 1 <= k <= experts, got {experts} and {k}")
