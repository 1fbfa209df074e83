"""What every form of expert must go through: growth by each initialiser, restoring, masks."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from workers.edits import Cause, Grow
from workers.moe.dispatch import Limits, dispatch
from workers.moe.experts.base import Loop, kernel_of
from workers.moe.growth import surgery
from workers.moe.growth.growable import cast
from workers.moe.layers import MoELayer
from workers.moe.selection import Selection
from workers.moe.selectors import TopK

INPUTS = OUTPUTS = 24


def x_TD(tokens: int = 20, seed: int = 3) -> Tensor:
    return torch.randn(tokens, INPUTS, generator=torch.Generator().manual_seed(seed))


def layer_of(expert: Any, experts: int = 2, *, most: int | None = 4, **settings: Any) -> MoELayer:
    config = MoELayer.Config(expert=expert, **settings)
    return MoELayer(config, INPUTS, OUTPUTS, experts, most, seed=4)


def grow(layer: MoELayer, experts: int, initialiser: str) -> None:
    where = {"id": "e1", "stage": "s1", "after_interval": 0, "revision": 1, "seed": 7}
    cause = Cause(policy="test", trigger="test")
    edit = Grow(**where, experts=experts, cause=cause, initialiser=initialiser)
    surgery.apply(layer, None, edit, None)


def check_growth(expert: Any, **settings: Any) -> None:
    """Old bits stay, copies answer as their parents, zeroed ones answer 0, all is restored."""
    for initialiser in ("random", "clone_split", "clone_noise", "logit_offset", "zero_out"):
        layer = layer_of(expert, **settings)
        layer(x_TD())  # statistics, where there are any, move once
        layer.eval()
        before, old = layer(x_TD()), {k: v.clone() for k, v in layer.state_dict().items()}
        grow(layer, 4, initialiser)
        assert layer.live == 4
        state = layer.state_dict()
        kept = [name for name in old if name.startswith(("experts.", "common.", "shared."))]
        assert all(torch.equal(state[name], old[name]) for name in kept)
        if initialiser == "clone_split":
            torch.testing.assert_close(layer(x_TD()), before, atol=1e-5, rtol=1e-5)
        if initialiser == "zero_out":
            assert not layer.expert(3)(x_TD()).any()
        again = layer_of(expert, **settings).eval()
        again.ensure_arch(copy.deepcopy(layer.arch()))
        again.load_state_dict(state)
        assert torch.equal(again(x_TD()), layer(x_TD()))


def check_masks(expert: Any, **settings: Any) -> None:
    """No gradient reaches what a masked token's expert is made of; outputs do not change."""
    layer = layer_of(expert, selector=TopK.Config(k=2), **settings)
    experts = list(layer.experts.values())
    weights_TE = torch.full((20, 2), 0.5)
    inputs = x_TD().requires_grad_()
    nobody = Limits(trainable_TE=torch.zeros(20, 2, dtype=torch.bool))
    for kernel in {type(k): k for k in (kernel_of(experts), Loop(experts))}.values():
        for dense in (True, False):
            selection = Selection(torch.ones(20, 2, dtype=torch.bool), weights_TE, dense=dense)
            layer.zero_grad(set_to_none=True)
            free = dispatch(kernel, inputs, selection, Limits())
            free.sum().backward()
            assert all(p.grad is not None for p in layer.experts.parameters())
            assert all(p.grad is not None for p in layer.common.parameters())
            layer.zero_grad(set_to_none=True)
            inputs.grad = None
            masked = dispatch(kernel, inputs, selection, nobody)
            torch.testing.assert_close(masked, free, atol=1e-5, rtol=1e-5)
            masked.sum().backward()
            for parameter in (*layer.experts.parameters(), *layer.common.parameters()):
                assert parameter.grad is None or not parameter.grad.any()
            assert inputs.grad is not None
            assert inputs.grad.any()


def check_bfloat16(expert: Any, **settings: Any) -> None:
    """In half precision it answers about the same, in the type of its input."""
    layer = layer_of(expert, **settings)
    expected = layer(x_TD()).detach()
    cast(layer, torch.bfloat16)
    found = layer(x_TD().bfloat16())
    assert found.dtype == torch.bfloat16
    found.float().square().mean().backward()
    spread = float((found.detach().float() - expected).norm() / expected.norm())
    assert spread < 0.05, spread
