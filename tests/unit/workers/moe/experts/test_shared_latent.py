"""Shared-latent experts: one projection for a layer, what growth costs, gradients, masks."""

from __future__ import annotations

import copy

import torch

from tests.unit.workers.moe.experts.life import (
    check_bfloat16,
    check_growth,
    check_masks,
    grow,
    layer_of,
    x_TD,
)
from workers.moe.dispatch import Limits, dispatch
from workers.moe.experts import Bottleneck, SharedLatentExpert
from workers.moe.experts.base import Loop, kernel_of
from workers.moe.experts.shared_latent import PackedLatent
from workers.moe.growth.growable import count_parameters
from workers.moe.layers import MoELayer
from workers.moe.selection import Selection

CONFIG = SharedLatentExpert.Config(rank=6, width=8)


def _latent(layer: MoELayer) -> torch.Tensor:
    return layer.common["0"].weight


def test_it_is_the_bottleneck_whose_input_matrix_is_the_product() -> None:
    layer = layer_of(CONFIG)
    expert = layer.expert(1)
    plain = Bottleneck(Bottleneck.Config(width=8), 24, 24, 8)
    with torch.no_grad():
        plain.up.weight.copy_(expert.up.weight @ _latent(layer))
        plain.up.bias.copy_(expert.up.bias)
    plain.down.load_state_dict(expert.down.state_dict())
    torch.testing.assert_close(expert(x_TD()), plain(x_TD()))


def test_an_expert_more_costs_the_small_parts_only() -> None:
    layer = layer_of(CONFIG)
    before = count_parameters(layer)
    assert sum(name.startswith("common.") for name in layer.state_dict()) == 1
    grow(layer, 3, "random")
    expert = 8 * 6 + 8 + 24 * 8 + 24
    assert count_parameters(layer) - before == expert + 24 + 1, "and its router row and bias"


def test_the_kernel_answers_and_teaches_as_the_loop() -> None:
    layer = layer_of(CONFIG, 3)
    experts = list(layer.experts.values())
    assert isinstance(kernel_of(experts), PackedLatent)
    weights_TE = torch.rand(20, 3, generator=torch.Generator().manual_seed(1))
    chosen_TE = weights_TE > 0.4
    for dense in (True, False):
        for limits in (Limits(), Limits(1), Limits(trainable_TE=weights_TE > 0.7)):
            seen = []
            for kernel in (kernel_of(experts), Loop(experts)):
                layer.zero_grad()
                y = dispatch(
                    kernel,
                    x_TD(),
                    Selection(chosen_TE, weights_TE * chosen_TE, dense=dense),
                    limits,
                )
                y.square().sum().backward()
                seen.append([y.detach(), *(p.grad for p in layer.experts.parameters())])
                seen[-1].append(_latent(layer).grad)
            for one, other in zip(*seen, strict=True):
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_copies_of_a_model_read_their_own_projection() -> None:
    layer = layer_of(CONFIG)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        _latent(other).zero_()
    assert other.expert(0).latent.weight is _latent(other)
    assert layer.expert(0)(x_TD()).std() > 0.01


def test_the_projection_is_paid_for_once() -> None:
    """The widest experts whose weights, with A and router rows, fit the dense map."""
    layer = layer_of(SharedLatentExpert.Config(rank=4), 2, most=4)
    (width, _) = layer.layer_shape().widths
    cost = [24 * 4 + 4 * (24 + w * (4 + 24)) for w in (width, width + 1)]
    assert cost[0] <= 24 * 24 < cost[1]


def test_growth_masks_and_half_precision() -> None:
    check_growth(CONFIG)
    check_masks(CONFIG)
    check_bfloat16(CONFIG)


def test_narrower_experts_read_the_same_projection() -> None:
    layer = layer_of(CONFIG)
    expert = layer.expert(0)
    whole, latent = expert(x_TD()), _latent(layer).clone()
    kept = expert.narrow(6, x_TD())
    assert set(kept) == {"up.weight", "up.bias", "down.weight"}
    assert expert.up.weight.shape == (6, 6)
    assert torch.equal(_latent(layer), latent)
    assert float((expert(x_TD()) - whole).detach().norm() / whole.detach().norm()) < 0.5
