"""Heads that DynamicMoE was compared with: their equations, and what stays over several growths."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.models.heads import HEADS
from workers.moe import INITIALISERS
from workers.moe.growth.growable import Growth

SIZES = (5, 8, 4, 3)
"""Inputs, two hidden layers, outputs."""


def head(kind: str, experts: int = 1) -> Any:
    config = HEADS[kind].Config(hidden=SIZES[1:3])  # type: ignore[attr-defined]
    return HEADS[kind](config, SIZES[0], SIZES[3], experts=experts, max_experts=4, seed=3)


def grow(model: Any, experts: int) -> None:
    random = INITIALISERS["random"](INITIALISERS["random"].Config())  # type: ignore[attr-defined]
    model.grow(Growth(experts=experts, seed=experts, initialiser=random, stage=None))


def train(model: nn.Module, steps: int = 3) -> None:
    """With weight decay, which would move whatever the optimizer holds."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x_B()).square().mean().backward()
        optimizer.step()


def x_B(samples: int = 16) -> Tensor:
    return torch.randn(samples, SIZES[0], generator=torch.Generator().manual_seed(1))


def whole(layer: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of an expanding layer, read off what it answers."""
    inputs = layer._size[0]
    bias = layer(torch.zeros(1, inputs))[0]
    return (layer(torch.eye(inputs)) - bias).T.detach(), bias.detach()


def test_an_expanding_layer_keeps_its_top_left_corner() -> None:
    model = head("expanding_mlp")
    train(model)
    for experts in (2, 4):
        before = [whole(layer) for layer in model.layers]
        kept = {name: value.clone() for name, value in model.state_dict().items()}
        grow(model, experts)
        for (old, shift), layer in zip(before, model.layers, strict=True):
            weight, bias = whole(layer)
            rows, columns = old.shape
            assert torch.allclose(weight[:rows, :columns], old, atol=1e-6)
            assert torch.equal(bias[:rows], shift)
            assert torch.equal(
                bias, torch.cat([b.bias for b in layer.blocks if b.bias is not None])
            )
        assert all(torch.equal(model.state_dict()[name], value) for name, value in kept.items())
        sizes = [whole(layer)[0].shape[::-1] for layer in model.layers]
        share = experts / 4
        assert sizes == [(5, 8 * share), (8 * share, 4 * share), (4 * share, 3)]
        y = x_B()
        for place, layer in enumerate(model.layers):
            y = functional.linear(y, *whole(layer))
            y = y if place == 2 else torch.relu(y)
        assert torch.allclose(model(x_B()), y, atol=1e-5)
        train(model)


def test_plasticity_injection_is_the_first_head_and_the_differences() -> None:
    model = head("plasticity_injection")
    train(model)
    for experts in (2, 3):
        before = model(x_B()).detach()
        grow(model, experts)
        assert torch.equal(model(x_B()), before), "the new pair cancels to the last bit"
        train(model)
        assert not torch.allclose(model(x_B()), before)
    frozen = [*model.copies.values(), model.heads["0"], model.heads["1"]]
    assert not any(p.requires_grad for part in frozen for p in part.parameters())
    heads, copies = model.heads, model.copies
    known = heads["0"](x_B())
    for name in ("1", "2"):
        known = known + (heads[name](x_B()) - copies[name](x_B()))
    assert torch.equal(model(x_B()), known)


def test_a_progressive_column_reads_the_older_ones_which_stay_bit_for_bit() -> None:
    model = head("progressive_net")
    train(model)
    grow(model, 2)
    train(model)
    grow(model, 3)
    old = {
        name: value.clone()
        for name, value in model.state_dict().items()
        if not name.startswith("columns.2.")
    }
    train(model)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in old.items())
    assert {name.split(".")[1] for name in old} == {"0", "1"}
    states: list[list[Tensor]] = []  # of each column, what its hidden layers give
    for column in model.columns.values():
        h, given = x_B(), []
        for place, layer in enumerate(column.layers):
            y = layer(h)
            if place and states:
                aside = torch.cat([older[place - 1] for older in states], 1)
                narrow, _, wide = column.adapters[place - 1]
                y = y + wide(torch.relu(narrow(column.scales[place - 1] * aside)))
            h = y if place == 2 else torch.relu(y)
            given.append(h)
        states.append(given)
    assert torch.allclose(model(x_B()), states[-1][-1], atol=1e-6)


@pytest.mark.parametrize("kind", ["expanding_mlp", "plasticity_injection", "progressive_net"])
def test_they_are_restored_by_their_architecture(kind: str) -> None:
    model = head(kind)
    for experts in (2, 4):
        grow(model, experts)
        train(model, 1)
    again = head(kind)
    again.ensure_arch(model.arch())
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x_B()), model(x_B()))
    learn = [{n for n, p in one.named_parameters() if p.requires_grad} for one in (model, again)]
    assert learn[0] == learn[1] != set()
