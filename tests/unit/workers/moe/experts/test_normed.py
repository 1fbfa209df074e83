"""Normed experts: the formula for both norms, running statistics, growth, masks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from tests.unit.workers.moe.experts.life import (
    check_bfloat16,
    check_growth,
    check_masks,
    layer_of,
    x_TD,
)
from workers.moe.experts import Bottleneck, NormedExpert

INNER = Bottleneck.Config(width=5)
LAYER = NormedExpert.Config(inner=INNER)
BATCH = NormedExpert.Config(inner=INNER, norm="batch")


def _expert(config: NormedExpert.Config) -> NormedExpert:
    torch.manual_seed(1)
    expert = NormedExpert(config, 24, 24, 5)
    torch.nn.init.normal_(expert.norm.weight)
    torch.nn.init.normal_(expert.norm.bias)
    return expert


@pytest.mark.parametrize(("config", "dim"), [(LAYER, 1), (BATCH, 0)])
def test_swish_of_the_normalised_output(config: NormedExpert.Config, dim: int) -> None:
    expert = _expert(config)
    y = expert.inner(x_TD())
    spread = (y.var(dim, correction=0, keepdim=True) + 1e-5).sqrt()
    z = (y - y.mean(dim, keepdim=True)) / spread * expert.norm.weight + expert.norm.bias
    torch.testing.assert_close(expert(x_TD()), z * z.sigmoid())


def test_batch_statistics_are_torchs_and_serve_where_nothing_is_learnt() -> None:
    expert = _expert(BATCH)
    theirs = torch.nn.BatchNorm1d(24)
    y = expert.inner(x_TD()).detach()
    for _ in range(3):
        expert(x_TD())
        theirs(y)
    torch.testing.assert_close(expert.norm.mean, theirs.running_mean)
    unbiased = theirs.running_var - expert.norm.variance
    assert unbiased.abs().max() < 0.02 * theirs.running_var.max()
    mean = expert.norm.mean.clone()
    expert(x_TD()[:1])  # a single row has no spread
    with torch.no_grad():
        expert(x_TD())
    expert.detached(x_TD())
    expert.eval()(x_TD())
    assert torch.equal(expert.norm.mean, mean)
    z = (y - mean) / (expert.norm.variance + 1e-5).sqrt() * expert.norm.weight + expert.norm.bias
    torch.testing.assert_close(expert(x_TD()), functional.silu(z))


def test_gates_compare_like_with_like() -> None:
    """Experts whose outputs differ by a factor of 1000 answer on one scale."""
    layer = layer_of(LAYER)
    with torch.no_grad():
        for parameter in layer.expert(1).inner.down.parameters():
            parameter.mul_(1000)
    sizes = [layer.expert(n)(x_TD()).square().mean() for n in (0, 1)]
    assert 0.5 < float((sizes[0] / sizes[1]).detach()) < 2


@pytest.mark.parametrize("config", [LAYER, BATCH])
def test_growth_and_masks(config: NormedExpert.Config) -> None:
    check_growth(config)
    check_masks(config)


def test_half_precision_and_budget() -> None:
    check_bfloat16(LAYER)
    check_bfloat16(BATCH)
    free = layer_of(NormedExpert.Config())
    assert free.layer_shape().widths == layer_of(Bottleneck.Config()).layer_shape().widths


def test_a_frozen_expert_stands_still() -> None:
    """It answers in training as it does otherwise, and its statistics stay."""
    expert = _expert(BATCH)
    expert(x_TD())
    wanted = copy.deepcopy(expert).eval()(x_TD())
    expert.requires_grad_(False)
    before = {name: value.clone() for name, value in expert.state_dict().items()}
    assert torch.equal(expert.train()(x_TD()), wanted)
    after = expert.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
