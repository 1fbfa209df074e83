"""Switch routing: weight of the full softmax, capacity in token order, dropped tokens get 0."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from workers.moe.experts import Bottleneck
from workers.moe.layers import MoELayer
from workers.moe.losses import Balance
from workers.moe.routed import Routed
from workers.moe.selectors import Switch


def _logits(tokens: int, experts: int, seed: int = 0) -> Tensor:
    return torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed))


def _selector(**settings: Any) -> Switch:
    return Switch(Switch.Config(**settings))


@pytest.mark.parametrize("capacity", [0.5, 1.0, 4.0])
def test_first_come_first_served(capacity: float) -> None:
    logits_TE = _logits(41, 4)
    found = _selector(capacity=capacity).select(logits_TE, None, True)
    places, taken = math.ceil(capacity * 41 / 4), [0] * 4
    p_TE, wanted_TE = torch.softmax(logits_TE, 1), torch.zeros(41, 4)
    for token, expert in enumerate(logits_TE.argmax(1).tolist()):
        if taken[expert] < places:
            taken[expert] += 1
            wanted_TE[token, expert] = p_TE[token, expert]
    torch.testing.assert_close(found.weights_TE, wanted_TE)
    assert found.as_slots().counts_E.tolist() == taken
    assert (sum(taken) < 41) == (capacity < 4.0)


def test_without_training_no_token_is_dropped() -> None:
    selector, logits_TE = _selector(capacity=0.3), _logits(30, 3)
    whole = selector.select(logits_TE, None, False)
    assert whole.chosen_TE.sum(1).tolist() == [1] * 30
    alone = [selector.select(row_1E, None, False).weights_TE for row_1E in logits_TE.split(1)]
    assert torch.equal(whole.weights_TE, torch.cat(alone))


def test_the_layer_answers_0_for_a_dropped_token_and_its_router_learns_from_others_only() -> None:
    config = MoELayer.Config(
        selector=Switch.Config(capacity=0.5), expert=Bottleneck.Config(width=4)
    )
    layer = MoELayer(config, 5, 8, 2, None, seed=1).train()
    x_TD = torch.randn(12, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    y_TO = layer(x_TD)
    dropped_T = (y_TO == 0).all(1)
    assert 6 <= int(dropped_T.sum()) < 12
    y_TO.square().sum().backward()
    assert x_TD.grad is not None
    assert bool((x_TD.grad[dropped_T] == 0).all())
    assert bool((x_TD.grad[~dropped_T] != 0).any(1).all())


def test_balance_counts_a_dropped_token_for_its_first_choice() -> None:
    """All tokens want expert 1: f = (0, 1) however many of them it takes."""
    logits_TE = torch.tensor([[0.0, 1.0]]).repeat(8, 1)
    found = _selector(capacity=0.5).select(logits_TE, None, True)
    assert int(found.chosen_TE.sum()) == 2
    p_TE = torch.softmax(logits_TE, 1)
    routed = Routed(p_TE, logits_TE, p_TE, found.chosen_TE, found.weights_TE, 0.0, (), None, None)
    loss = Balance(Balance.Config()).loss(routed)
    torch.testing.assert_close(loss, 2 * p_TE[0, 1])


@pytest.mark.parametrize("wrong", [{"capacity": 0.0}, {"temperature": 0.0}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        Switch.Config(**wrong)
