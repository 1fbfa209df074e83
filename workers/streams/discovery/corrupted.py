"""True domains, some of them wrong."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.streams.discovery.base import Discovery


class Corrupted(Discovery):
    """True labels, a share of them replaced by another domain at random."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Discovery.Config):
        """How many are wrong."""

        kind: str = "corrupted"
        share: float = 0.2
        """Of the samples of each part, rounded, 0 to 1."""

        def __post_init__(self) -> None:
            if not 0.0 <= self.share <= 1.0:
                raise ValueError(f"share must lie between 0 and 1, got {self.share}")

    config: Config

    @property
    def most(self) -> int:
        return self.domains

    def found(self, x_ND: Tensor, true_N: Tensor, task: int) -> Tensor:
        if self.domains < 2:
            return true_N
        generator = self.generator("corrupted", task, len(true_N))
        wrong = torch.randperm(len(true_N), generator=generator)
        wrong = wrong[: round(self.config.share * len(true_N))]
        shift = torch.randint(1, self.domains, (len(wrong),), generator=generator)
        found = true_N.clone()
        found[wrong] = (found[wrong] + shift) % self.domains
        return found
