"""Diagnostics of features, weights and gradients on inputs whose answer is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workers.diagnostics import DIAGNOSTICS, Figures, Probe


def probe(**given: Any) -> Probe:
    empty = torch.zeros(0)
    model = given.pop("model", nn.Identity())
    return Probe(
        model=model, inputs=empty, outputs=empty, domains=("d",), domain=empty.long(), **given
    )


def figures(name: str, seen: Probe, **settings: Any) -> Figures:
    cls: Any = DIAGNOSTICS[name]
    return cls(cls.Config(kind=name, **settings)).figures(seen)


def of(name: str, features: Tensor, **settings: Any) -> float:
    return figures(name, probe(activations={"layer": features}), **settings)["layer"]


def test_dormant_and_zero_ratio() -> None:
    features = torch.tensor([[1.0, 0.0, 0.01, -1.0], [3.0, 0.0, 0.01, 1.0]])
    assert of("dormant_ratio", features) == 0.5
    assert of("dormant_ratio", features, tau=0.001) == 0.25
    assert of("zero_activation_ratio", features) == 0.25
    assert of("dormant_ratio", torch.zeros(3, 4)) == 1.0


def test_units_of_images_are_filters_and_of_sequences_the_last_dimension() -> None:
    images = torch.zeros(2, 2, 3, 3)
    images[:, 0, 1, 1] = 5.0
    assert of("dormant_ratio", images) == 0.5
    sequences = torch.zeros(2, 7, 4)
    sequences[..., 1:] = 1.0
    assert of("dormant_ratio", sequences) == 0.25


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_ranks_of_an_isotropic_subspace(rank: int) -> None:
    features = torch.zeros(20, 10)
    features[:rank, :rank] = torch.eye(rank) * 4
    assert of("effective_rank", features) == pytest.approx(rank)
    assert of("srank", features) == rank


def test_ranks_of_uneven_and_empty_features() -> None:
    features = torch.diag(torch.tensor([98.0, 1.5, 0.5]))
    entropy = -sum(p * math.log(p) for p in (0.98, 0.015, 0.005))
    assert of("effective_rank", features) == pytest.approx(math.exp(entropy))
    assert of("srank", features) == 2
    assert of("srank", features, delta=0.1) == 1
    assert (of("effective_rank", torch.zeros(4, 3)), of("srank", torch.zeros(4, 3))) == (0.0, 0.0)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
def test_ranks_are_those_of_a_singular_value_decomposition(shape: tuple[int, int]) -> None:
    features = torch.randn(shape, generator=torch.Generator().manual_seed(3)).relu()
    share = torch.linalg.svdvals(features.double())
    share = share / share.sum()
    entropy = float(-(share * share.log()).sum())
    assert of("effective_rank", features) == pytest.approx(math.exp(entropy), rel=1e-9)
    assert of("srank", features) == int((share.cumsum(0) < 0.99).sum()) + 1


def test_features_that_are_not_finite_have_no_rank() -> None:
    seen = probe(activations={"lost": torch.tensor([[math.inf, 1.0]]), "kept": torch.eye(3)})
    assert figures("effective_rank", seen) == pytest.approx({"kept": 3.0})


def test_participation_ratio() -> None:
    corners = torch.tensor([[a, b, 0.0] for a in (-1.0, 1.0) for b in (-1.0, 1.0)])
    assert of("participation_ratio", corners) == pytest.approx(2)
    assert of("participation_ratio", torch.ones(5, 3)) == 0


def test_wide_features_are_thinned_out() -> None:
    wide = torch.eye(8).repeat(100, 200)
    assert of("effective_rank", wide) == pytest.approx(8)


def linear(weight: list[float], bias: float) -> nn.Linear:
    layer = nn.Linear(2, 1)
    layer.weight.data, layer.bias.data = torch.tensor([weight]), torch.tensor([bias])
    return layer


def test_weight_norm_of_all_and_of_each_part() -> None:
    model = nn.ModuleDict({"a": linear([3.0, 4.0], 0.0), "b": linear([0.0, 1.0], 2.0)})
    assert figures("weight_norm", probe(model=model)) == pytest.approx(
        {"all": 5 / 2 + 1 / 2 + 2, "a": 5 / 2, "b": 1 / 2 + 2}
    )


def test_weight_distance_is_over_tensors_that_both_have() -> None:
    model = nn.ModuleDict({"a": linear([3.0, 4.0], 0.0), "b": linear([0.0, 1.0], 2.0)})
    start = {
        "a.weight": torch.zeros(1, 2),
        "b.bias": torch.tensor([5.0]),
        "b.weight": torch.ones(9),
    }
    assert figures("weight_distance", probe(model=model, start=start)) == pytest.approx(
        {"all": 5 / 2 + 3, "a": 5 / 2, "b": 3.0}
    )
    assert figures("weight_distance", probe(model=model)) == {}


def test_gradient_norms_leave_out_parameters_without_a_gradient() -> None:
    gradients = {"a": torch.tensor([3.0, 4.0]), "frozen": None, "b": torch.zeros(2)}
    found = figures("gradient_norms", probe(gradients=gradients))
    assert found == {"min": 0.0, "mean": 2.5, "max": 5.0, "zero_ratio": 0.5}
    assert figures("gradient_norms", probe()) == {}
