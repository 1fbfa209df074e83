"""A linear router fitted by clusters: each cluster of inputs gets the expert that serves it best.

MixER (arXiv 2502.05335). Letters: T tokens, E experts, D inputs, K clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from workers.kmeans import kmeans
from workers.moe.routers.base import Router
from workers.moe.routers.linear import LinearRouter


class KMeansRouter(LinearRouter):
    """Linear, refitted by k-means on inputs: W = lstsq(C + noise, onehot) / tau (2502.05335).

    C [K, D]: centres; each cluster, the largest first, takes the expert with the smallest median
    cost in it that no other cluster has taken. A constant column gives the biases. Where a cluster
    stays empty, or there are fewer inputs than clusters, the fit changes nothing. Between fits it
    is trained as a linear router is (the source's gate is not trained).
    """

    start_from = Router.start_from
    fit_targets: ClassVar[tuple[str, ...]] = ("losses", "errors")

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the fit."""

        kind: str = "kmeans_lstsq"
        clusters: int | None = None
        """K, at most the experts there are; None = as many."""
        iterations: int = 20
        """Rounds of k-means at most."""
        tolerance: float = 1e-4
        """k-means ends where no centre moves farther."""
        noise: float = 1e-4
        """Standard deviation of what is added to the centres."""
        temperature: float = 0.1
        """tau: how sharp the fitted scores (0 to 1) are."""

        def __post_init__(self) -> None:
            if (self.clusters is not None and self.clusters < 2) or self.iterations < 1:
                raise ValueError("clusters must be at least 2 and iterations at least 1")
            if self.temperature <= 0 or self.noise < 0 or self.tolerance < 0:
                raise ValueError(
                    "temperature must be above 0, noise and tolerance not negative, got "
                    f"{self.temperature}, {self.noise} and {self.tolerance}"
                )

    def __init__(self, config: Config, inputs: int) -> None:
        super().__init__(LinearRouter.Config(), inputs)
        self.config = config

    @torch.no_grad()
    def fit(self, x_TD: Tensor, y: Tensor, seed: int) -> None:
        """y: cost of each expert for each token [T, E]; on the CPU in float64."""
        config, generator = self.config, torch.Generator().manual_seed(seed)
        x_TD, cost_TE = x_TD.double().cpu(), y.double().cpu()
        clusters = min(config.clusters or len(self.rows), len(self.rows))
        found = kmeans(x_TD, clusters, config.iterations, config.tolerance, generator)
        if found is None:
            return
        centres_KD, cluster_T = found
        expert_K = assigned(cost_TE, cluster_T, clusters)
        noise_KD = torch.randn(centres_KD.shape, generator=generator, dtype=torch.float64)
        read_KA = functional.pad(centres_KD + config.noise * noise_KD, (0, 1), value=1.0)
        wanted_KE = functional.one_hot(expert_K, len(self.rows)).double()
        solved_AE = torch.linalg.lstsq(read_KA, wanted_KE, driver="gelsd").solution
        for place, name in enumerate(self.rows):
            self.rows[name].copy_(solved_AE[:-1, place] / config.temperature)
            self.biases[name].copy_(solved_AE[-1, place] / config.temperature)


def assigned(cost_TE: Tensor, cluster_T: Tensor, clusters: int) -> Tensor:
    """Expert of each cluster, int64 [K]: the best by median cost that is left, largest first."""
    order = torch.bincount(cluster_T, minlength=clusters).argsort(descending=True, stable=True)
    taken: dict[int, int] = {}
    for cluster in order.tolist():
        median_E = cost_TE[cluster_T == cluster].median(0).values.clone()
        median_E[list(taken.values())] = float("inf")
        taken[cluster] = int(median_E.argmin())
    return torch.tensor([taken[cluster] for cluster in range(clusters)])
