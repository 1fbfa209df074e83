"""Steering: inside its block a layer chooses by the rule, outside as ever."""

from __future__ import annotations

import pytest
import torch

from tests.routed import INPUTS, Two, by_hand
from workers.inference.steering import steerable, steered, weighted, without
from workers.moe.experts.linear import LinearExpert
from workers.moe.layers.chain import ChainLayer
from workers.moe.routed import observing

DENSE, TOP2 = {"kind": "dense"}, {"kind": "topk", "k": 2}


@pytest.mark.parametrize("selector", [DENSE, TOP2])
def test_weights_from_outside_are_those_of_the_sum(selector: dict[str, object]) -> None:
    model, x = Two(selector), torch.randn(6, INPUTS)
    w = torch.rand(6, 3)
    with steered(steerable(model), {"first": weighted(w)}):
        found = model.first(x)
    assert torch.allclose(found, by_hand(model.first, x, lambda _: w), atol=1e-6)


def test_everything_is_as_before_after_the_block() -> None:
    model, x = Two(TOP2), torch.randn(6, INPUTS)
    before, attributes = model(x), set(vars(model.first.selector))
    rules = {"first": without(torch.tensor([True, False, False]))}
    with steered(steerable(model), rules):
        assert not torch.equal(model(x), before)
    with pytest.raises(IndexError), steered(steerable(model), rules):
        model(x[:, :, 0])
    assert torch.equal(model(x), before)
    assert set(vars(model.first.selector)) == attributes
    assert not model.first.selector.steered


def test_blocks_inside_blocks_hand_on_to_the_outer_rule() -> None:
    model, x = Two(DENSE), torch.randn(6, INPUTS)
    layers = steerable(model)
    off = [torch.tensor([n == place for n in range(3)]) for place in (0, 1)]
    with steered(layers, {"first": without(off[0])}):
        with steered(layers, {"first": without(off[1])}), observing(model) as seen:
            model(x)
        assert model.first.selector.steered
    chosen = seen["first"][0].chosen
    assert chosen.tolist() == [[False, False, True]] * 6


def test_rounds_of_a_chain_have_rules_of_their_own() -> None:
    chain = ChainLayer(
        ChainLayer.Config(rounds=2, expert=LinearExpert.Config()), 4, 4, 3, seed=0
    ).eval()
    one, other = torch.eye(3)[[0, 1]], torch.eye(3)[[2, 2]]
    with steered({"": chain}, {"": (weighted(one), weighted(other))}), observing(chain) as seen:
        for _ in range(2):
            chain(torch.randn(2, 4))
    assert [
        torch.equal(routed.weights, w)
        for routed, w in zip(seen[""], [one, other, one, other], strict=True)
    ] == [True] * 4


def test_masks_hold_under_a_rule() -> None:
    model, x = Two(DENSE), torch.randn(2, INPUTS)
    allowed = torch.tensor([[True, True, False], [False, True, True]])
    off = torch.tensor([True, False, False])
    with steered(steerable(model), {"first": without(off)}), observing(model) as seen:
        model.first(x, allowed)
    assert seen["first"][0].chosen.tolist() == [[False, True, False], [False, True, True]]
