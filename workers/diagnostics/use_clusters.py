"""Domains found in how samples use the experts, beside the true ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workers.diagnostics.base import Diagnostic, Figures, Probe

if TYPE_CHECKING:
    from torch import Tensor

TRIES = 4
"""Draws of first centres; the one with the smallest squared distance counts."""


class UseClusters(Diagnostic):
    """Adjusted Rand index of the true domains and k-means on the use of experts by sample.

    A sample's use is the mean gate weight of each expert over its tokens [E]; k = the number of
    domains. 1: whoever sees only the routing finds the domains; 0: as chance would. Keys are routed
    layers and, of several, ``all``: their uses side by side. Nothing where there is one domain only
    or where uses do not fall into k clusters.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Diagnostic.Config):
        """How clusters are sought."""

        kind: str = "use_clusters"
        iterations: int = 50
        """Steps of Lloyd's algorithm at most."""
        seed: int = 0
        """Of the first centres."""

        def __post_init__(self) -> None:
            if self.iterations < 1:
                raise ValueError(f"iterations must be at least 1, got {self.iterations}")

    unit = "adjusted Rand index, up to 1, 0 by chance"
    source = "Hubert and Arabie 1985, Comparing partitions"
    scope = "model"
    cheap = False

    config: Config

    def figures(self, probe: Probe) -> Figures:
        import torch

        if len(probe.domains) < 2:
            return {}
        uses = {
            layer: gates.weights.double().unflatten(0, (len(probe.domain), -1)).mean(1)
            for layer, gates in probe.routed.items()
        }
        if len(uses) > 1:
            uses["all"] = torch.cat(list(uses.values()), dim=1)
        found = {layer: self._agreement(use_NE, probe) for layer, use_NE in uses.items()}
        return {layer: value for layer, value in found.items() if value is not None}

    def _agreement(self, use_NE: Tensor, probe: Probe) -> float | None:
        import torch
        from sklearn.metrics import adjusted_rand_score

        from workers.kmeans import best_kmeans

        seeds = range(self.config.seed, self.config.seed + TRIES)
        draws = (torch.Generator().manual_seed(seed) for seed in seeds)
        made = best_kmeans(use_NE, len(probe.domains), self.config.iterations, draws)
        if made is None:
            return None
        return float(adjusted_rand_score(probe.domain.numpy(), made[1].numpy()))
