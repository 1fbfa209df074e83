"""k-means with k-means++ starts, in torch and repeatable by its generator."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional


def best_kmeans(
    x_TD: Tensor, clusters: int, iterations: int, generators: Iterable[torch.Generator]
) -> tuple[Tensor, Tensor] | None:
    """As ``kmeans``, of several draws of first centres, one a generator, the one with the smallest
    squared distance; the first of equal ones, None where every draw leaves a cluster empty."""
    found = []
    for generator in generators:
        made = kmeans(x_TD, clusters, iterations, 0.0, generator)
        if made is not None:
            centres_KD, cluster_T = made
            found.append((float((x_TD - centres_KD[cluster_T]).square().sum()), made))
    return min(found, key=lambda one: one[0])[1] if found else None


def kmeans(
    x_TD: Tensor, clusters: int, iterations: int, tolerance: float, generator: torch.Generator
) -> tuple[Tensor, Tensor] | None:
    """Centres [K, D] and each input's cluster int64 [T]; None where a cluster is empty.

    Starts from inputs drawn far from each other (k-means++).
    """
    if len(x_TD) < clusters:
        return None
    first = torch.randint(len(x_TD), (1,), generator=generator)
    centres_KD = x_TD[first]
    while len(centres_KD) < clusters:
        far_T = torch.cdist(x_TD, centres_KD).amin(1).square()
        if not far_T.any():
            return None
        drawn = torch.multinomial(far_T, 1, generator=generator)
        centres_KD = torch.cat([centres_KD, x_TD[drawn]])
    for _ in range(iterations):
        cluster_T = torch.cdist(x_TD, centres_KD).argmin(1)
        member_TK = functional.one_hot(cluster_T, clusters).double()
        counts_K = member_TK.sum(0)
        if not counts_K.all():
            return None
        moved_KD = member_TK.T @ x_TD / counts_K.unsqueeze(1)
        farthest = (moved_KD - centres_KD).norm(dim=1).max()
        centres_KD = moved_KD
        if farthest <= tolerance:
            break
    cluster_T = torch.cdist(x_TD, centres_KD).argmin(1)
    return None if len(cluster_T.unique()) < clusters else (centres_KD, cluster_T)
