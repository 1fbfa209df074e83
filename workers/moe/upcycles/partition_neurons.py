"""Partition of neurons: hidden units that read alike become one expert."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from workers.moe.experts.feed_forward import FeedForward
from workers.moe.upcycles.base import Upcycle, check_counts

ROUNDS = 20
"""Rounds of the clustering at most."""


class PartitionNeurons(Upcycle):
    """Each hidden unit belongs to one expert; units that read alike stay together.

    The W units are clustered by the directions they read along (rows of U, gates included) into E
    clusters of equal size, by k-means with a full cluster closed to further units. The output map
    is k times the dense one's: with equal weights 1/k, y = sum of the chosen experts' shares of
    FFN(x), and the dense model itself at k = E. The source (arXiv 2512.02351) leaves the clustering
    open; it trains the router alone at first, then everything.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Upcycle.Config):
        """Number of experts."""

        kind: str = "partition_neurons"
        experts: int = 4
        """E: parts of the feed-forward; must divide W."""
        k: int = 2
        """Parts that a token runs through."""

        def __post_init__(self) -> None:
            check_counts(self.experts, self.k)

    @property
    def scale(self) -> float:  # type: ignore[override]
        return float(self.k)

    def units(self, whole: FeedForward) -> list[Tensor]:
        owner_W = balanced_clusters(whole.units.detach(), self.experts)
        return [torch.nonzero(owner_W == expert).flatten() for expert in range(self.experts)]


def balanced_clusters(points_WD: Tensor, clusters: int) -> Tensor:
    """Cluster of each point, int64 [W], every cluster of W / clusters points.

    k-means on unit vectors with equal sizes; begins with points far from each other, so that
    equal points give equal clusters. Draws nothing.
    """
    points_WD = functional.normalize(points_WD.double().cpu(), dim=1)
    centres_ED = points_WD[_spread(points_WD, clusters)]
    owner_W = torch.full((len(points_WD),), -1)
    for _ in range(ROUNDS):
        found_W = _filled(torch.cdist(points_WD, centres_ED), len(points_WD) // clusters)
        if torch.equal(found_W, owner_W):
            break
        owner_W = found_W
        centres_ED = torch.stack([points_WD[owner_W == e].mean(0) for e in range(clusters)])
    return owner_W


def _spread(points_WD: Tensor, clusters: int) -> list[int]:
    """Points that are far from each other: each the farthest from those before it."""
    chosen = [0]
    while len(chosen) < clusters:
        nearest_W = torch.cdist(points_WD, points_WD[chosen]).min(1).values
        chosen.append(int(nearest_W.argmax()))
    return chosen


def _filled(distance_WE: Tensor, size: int) -> Tensor:
    """The nearest cluster of each point that still has room, nearest pairs first."""
    points, clusters = distance_WE.shape
    owner_W, room = torch.full((points,), -1), [size] * clusters
    for place in distance_WE.flatten().argsort(stable=True).tolist():
        point, cluster = divmod(place, clusters)
        if owner_W[point] < 0 and room[cluster]:
            owner_W[point] = cluster
            room[cluster] -= 1
    return owner_W
