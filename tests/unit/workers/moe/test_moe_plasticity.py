"""Plasticity measures on inputs whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from workers.diagnostics.plasticity import (
    activations,
    dormant_ratio,
    effective_rank,
    gradient_norms,
    participation_ratio,
    srank,
    weight_distance,
    weight_norm,
    zero_activation_ratio,
)


def test_dormant_and_zero_ratio() -> None:
    features = torch.tensor([[1.0, 0.0, 0.01, -1.0], [3.0, 0.0, 0.01, 1.0]])
    assert dormant_ratio(features) == 0.5
    assert dormant_ratio(features, tau=0.001) == 0.25
    assert zero_activation_ratio(features) == 0.25
    assert dormant_ratio(torch.zeros(3, 4)) == 1.0
    images = torch.zeros(2, 2, 3, 3)
    images[:, 0, 1, 1] = 5.0
    assert dormant_ratio(images) == 0.5


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_ranks_of_an_isotropic_subspace(rank: int) -> None:
    features = torch.zeros(20, 10)
    features[:rank, :rank] = torch.eye(rank) * 4
    assert effective_rank(features) == pytest.approx(rank)
    assert srank(features) == rank


def test_ranks_of_uneven_and_empty_features() -> None:
    features = torch.diag(torch.tensor([98.0, 1.5, 0.5]))
    share = [0.98, 0.015, 0.005]
    entropy = -sum(p * math.log(p) for p in share)
    assert effective_rank(features) == pytest.approx(math.exp(entropy))
    assert srank(features) == 2
    assert srank(features, delta=0.1) == 1
    assert (effective_rank(torch.zeros(4, 3)), srank(torch.zeros(4, 3))) == (0.0, 0)


def test_participation_ratio() -> None:
    corners = torch.tensor([[a, b, 0.0] for a in (-1.0, 1.0) for b in (-1.0, 1.0)])
    assert participation_ratio(corners) == pytest.approx(2)
    assert participation_ratio(torch.ones(5, 3)) == 0


def test_weight_measures() -> None:
    start = {"a": torch.tensor([3.0, 4.0]), "b": torch.zeros(2)}
    now = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([0.0, 1.0]), "new": torch.ones(4)}
    assert weight_norm(now) == pytest.approx(5 / 2 + 1 / 2 + 2 / 4)
    assert weight_distance(now, start) == pytest.approx(1 / 2)


def test_gradient_norms() -> None:
    found = gradient_norms([torch.tensor([3.0, 4.0]), None, torch.zeros(2)])
    assert found == {"min": 0.0, "mean": 2.5, "max": 5.0, "zero_ratio": 0.5}
    assert gradient_norms([None]) == {}


def test_activations_are_named_by_module_and_call() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(3, 4), relu, nn.Linear(4, 4), relu)
    seen = activations(model, torch.randn(5, 3))
    assert list(seen) == ["1.0", "1.1"]
    assert seen["1.0"].shape == (5, 4)
    assert all((tensor >= 0).all() for tensor in seen.values())
    assert not relu._forward_hooks
