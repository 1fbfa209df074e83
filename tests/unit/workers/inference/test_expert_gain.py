"""expert_gain: off is minus infinity, on is everything, scale multiplies; ranks by contrast."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.routed import INPUTS, Two, by_hand, subject
from workers.contract import InputError
from workers.diagnostics import Gates
from workers.inference.expert_gain import ExpertGain

DENSE, TOP2 = {"kind": "dense"}, {"kind": "topk", "k": 2}


def prepared(model: Any, *, gates: Any = None, **settings: Any) -> ExpertGain:
    policy = ExpertGain(ExpertGain.Config(**settings))
    policy.prepare(subject(model, gates=lambda: gates))
    return policy


def gates(rows: list[list[float]]) -> Gates:
    weights = torch.tensor(rows)
    return Gates(weights=weights, chosen=weights > 0, probabilities=weights)


def masked(place: int, value: float) -> Any:
    def weights(r: Tensor) -> Tensor:
        return r.index_fill(1, torch.tensor([place]), value).softmax(-1)

    return weights


def test_an_expert_that_is_off_leaves_the_softmax() -> None:
    model, x = Two(DENSE), torch.randn(6, INPUTS)
    hidden = by_hand(model.first, x, masked(1, -math.inf)).tanh()
    found = prepared(model, experts={"first": (1,)}).answer(model, x)
    assert torch.allclose(found, model.last(hidden), atol=1e-6)


def test_an_expert_that_is_forced_takes_all() -> None:
    model, x = Two(TOP2), torch.randn(6, INPUTS)
    found = prepared(model, experts={"last": (2,)}, mode="on").answer(model, x)
    assert torch.allclose(found, model.last.expert(2)(model.first(x).tanh()), atol=1e-6)


def test_gate_weights_are_multiplied_and_the_others_left() -> None:
    model, x = Two(DENSE), torch.randn(6, INPUTS)
    factor = torch.tensor([1.0, 3.0, 3.0])
    expected = by_hand(model.first, x, lambda r: r.softmax(-1) * factor)
    policy = prepared(model, experts={"first": (1, 2)}, mode="scale", gain=3.0)
    assert torch.allclose(policy.answer(model, x), model.last(expected.tanh()), atol=1e-6)


USE = {
    "a": {"first": gates([[1, 0, 0], [0, 1, 0]]), "last": gates([[1, 0, 0], [1, 0, 0]])},
    "b": {"first": gates([[0, 0, 1], [0, 0, 1]]), "last": gates([[1, 0, 0], [0, 1, 0]])},
}


def test_experts_are_ranked_by_the_difference_of_their_use() -> None:
    policy = prepared(Two(TOP2), gates=USE, on="b", top=2)
    assert policy.figures() == {"marked/first/2": 1.0, "marked/last/1": 0.5}
    assert prepared(Two(TOP2), gates=USE, on="a").figures() == {"marked/first/0": 0.5}


def test_experts_are_ranked_by_their_association() -> None:
    policy = prepared(Two(TOP2), gates=USE, on="b", rank="npmi")
    assert policy.figures() == {"marked/first/2": pytest.approx(1.0)}
    policy = prepared(Two(TOP2), gates=USE, on="b", rank="npmi", top=2)
    half = math.log(0.25 / (0.25 * 0.5)) / -math.log(0.25)
    assert policy.figures()["marked/last/1"] == pytest.approx(half)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experts": {"other": (0,)}}, "no routed layer 'other'; there are: first, last"),
        ({"experts": {"first": (3,)}}, "experts 0 to 2, got \\[3\\]"),
        ({"experts": {"first": (0, 1, 2)}}, "all 3 experts of layer 'first' would be off"),
        ({"on": "c"}, "'c' is none of several; there are: a, b"),
    ],
)
def test_what_the_model_does_not_have_is_named(settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepared(Two(TOP2), gates=USE, **settings)


def test_experts_are_given_or_ranked() -> None:
    for settings in ({}, {"experts": {"first": (0,)}, "on": "a"}):
        with pytest.raises(ValueError, match="give either experts"):
            ExpertGain.Config(**settings)
