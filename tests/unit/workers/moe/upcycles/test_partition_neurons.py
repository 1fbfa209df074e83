"""Clusters of equal size: of neurons that read alike, whatever their order."""

from __future__ import annotations

import torch

from workers.moe.upcycles.partition_neurons import balanced_clusters


def test_neurons_that_read_alike_stay_together() -> None:
    generator = torch.Generator().manual_seed(1)
    directions_ED = torch.eye(6)[:4]
    group_W = torch.arange(20).remainder(4)[torch.randperm(20, generator=generator)]
    size_W1 = 0.5 + torch.rand(20, 1, generator=generator)
    noise_WD = 0.1 * torch.randn(20, 6, generator=generator)
    owner_W = balanced_clusters(size_W1 * (directions_ED[group_W] + noise_WD), 4)
    assert owner_W.bincount().tolist() == [5, 5, 5, 5]
    for group in range(4):
        assert len(owner_W[group_W == group].unique()) == 1


def test_clusters_are_of_equal_size_where_neurons_are_not() -> None:
    points_WD = torch.cat([torch.eye(4)[:1].repeat(9, 1), torch.eye(4)[1:]])
    owner_W = balanced_clusters(points_WD, 3)
    assert owner_W.bincount().tolist() == [4, 4, 4]
    assert torch.equal(owner_W, balanced_clusters(points_WD, 3))
