"""Domains as clusters of inputs, found before training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from workers.contract import InputError
from workers.kmeans import best_kmeans
from workers.streams.discovery.base import Discovery

TRIES = 8
"""Draws of first centres; the one with the smallest squared distance counts."""


class KMeans(Discovery):
    """k-means on the inputs of all tasks, clustered before training: it looks ahead."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Discovery.Config):
        """How many clusters."""

        kind: str = "kmeans"
        domains: int | None = None
        """k; None = as many as there truly are."""
        iterations: int = 100
        """Steps of Lloyd's algorithm at most."""

        def __post_init__(self) -> None:
            if self.iterations < 1 or (self.domains is not None and self.domains < 1):
                raise ValueError(
                    "domains and iterations must be at least 1, got "
                    f"{self.domains} and {self.iterations}"
                )

    config: Config
    looks_ahead: ClassVar[bool] = True

    @property
    def most(self) -> int:
        return self.config.domains or self.domains

    def prepare(self, x_ND: Tensor) -> None:
        draws = (self.generator("kmeans", number) for number in range(TRIES))
        made = best_kmeans(x_ND, self.most, self.config.iterations, draws)
        if made is None:
            raise InputError(
                f"discovery kmeans: {len(x_ND)} inputs do not fall into {self.most} clusters; give "
                "fewer domains"
            )
        self.centres_KD, _ = made

    def found(self, x_ND: Tensor, true_N: Tensor, task: int) -> Tensor:
        return torch.cdist(x_ND, self.centres_KD).argmin(1)
