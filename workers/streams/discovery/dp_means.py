"""Domains as clusters of inputs, found one sample after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.streams.discovery.base import Discovery


class DPMeans(Discovery):
    """Online DP-means: an input far from every centre is the first of a new domain (1111.0352).

    One pass, in order: the nearest of the centres takes the input where ``|x - c|^2 <= lam`` and
    moves by ``(x - c) / n`` to the mean of its n inputs; else the input is a centre itself, while
    there are fewer than ``most``. ``lam`` is ``spread`` times the mean squared distance of the
    first ``warmup`` inputs from their mean.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Discovery.Config):
        """How far is far, and how many domains there may be."""

        kind: str = "dp_means"
        spread: float = 2.0
        """lam, as a multiple of the spread of the first inputs."""
        warmup: int = 256
        """Inputs whose spread is measured."""
        most: int = 8
        """Domains at most."""

        def __post_init__(self) -> None:
            if self.spread <= 0.0 or self.warmup < 2 or self.most < 1:
                raise ValueError(
                    "spread must be above 0, warmup at least 2 and most at least 1, got "
                    f"{self.spread}, {self.warmup} and {self.most}"
                )

    config: Config

    def __init__(self, config: Any, seed: int, domains: int) -> None:
        super().__init__(config, seed, domains)
        self.lam: float | None = None
        self.counts: list[int] = []
        self.after: dict[int, Tensor] = {}
        """Task -> centres [K, D] once it was learnt."""

    @property
    def most(self) -> int:
        return self.config.most

    def learn(self, x_ND: Tensor, true_N: Tensor, task: int) -> Tensor:
        if self.lam is None:
            first = x_ND[: self.config.warmup]
            spread = (first - first.mean(0)).square().sum(1).mean()
            self.lam = self.config.spread * float(spread)
            self.centres_KD = x_ND[:0].clone()
        found = [self._take(x_D) for x_D in x_ND]
        self.after[task] = self.centres_KD.clone()
        return torch.tensor(found)

    def found(self, x_ND: Tensor, true_N: Tensor, task: int) -> Tensor:
        return torch.cdist(x_ND, self.after[task]).argmin(1)

    def _take(self, x_D: Tensor) -> int:
        """Domain of one input, which is learnt from."""
        assert self.lam is not None
        if self.counts:
            away_K = (self.centres_KD - x_D).square().sum(1)
            nearest = int(away_K.argmin())
            if float(away_K[nearest]) <= self.lam or len(self.counts) >= self.most:
                self.counts[nearest] += 1
                self.centres_KD[nearest] += (x_D - self.centres_KD[nearest]) / self.counts[nearest]
                return nearest
        self.centres_KD = torch.cat([self.centres_KD, x_D[None]])
        self.counts.append(1)
        return len(self.counts) - 1
