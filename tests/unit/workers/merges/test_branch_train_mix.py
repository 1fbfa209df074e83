"""Specialists as experts: each expert is its specialist's feed-forward, all else their mean."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.unit.workers.merges.models import SCENE, answer, dense, routed
from workers.contract import InputError
from workers.merges import BranchTrainMix

MERGE = BranchTrainMix(BranchTrainMix.Config())


def merged(parents: list[Any], model: Any) -> Any:
    MERGE.check(model, parents)
    MERGE.fill(model, parents, SCENE)
    return model


def test_experts_are_the_specialists_and_the_rest_is_their_mean() -> None:
    parents = [dense([24, 8], seed) for seed in range(3)]
    model = merged(parents, routed(3, 24, 2, [8], last=True))
    layer, last = model.head.layers
    for number, parent in enumerate(parents):
        first, second, _ = parent.head.layers
        assert torch.equal(layer.expert(number).up.weight, first.weight)
        assert torch.equal(layer.expert(number).down.weight, second.weight)
        assert torch.equal(layer.expert(number).down.bias, second.bias)
    weights = [parent.head.layers[2].weight.double() for parent in parents]
    torch.testing.assert_close(last.weight.double(), sum(weights) / 3)
    shared = [parent.backbone.layers[0].bias.double() for parent in parents]
    torch.testing.assert_close(model.backbone.layers[0].bias.double(), sum(shared) / 3)


def test_one_model_twice_is_that_model() -> None:
    parent = dense([24])
    model = merged([parent, parent], routed(2, 24, 2, [], last=False))
    torch.testing.assert_close(answer(model), answer(parent), atol=1e-6, rtol=1e-5)


def test_the_router_is_that_of_the_untrained_model() -> None:
    untrained = routed(2, 24, 2, [], last=False)
    model = merged([dense([24], 1), dense([24], 2)], routed(2, 24, 2, [], last=False))
    own, known = (m.head.layers[0].router.state_dict() for m in (model, untrained))
    assert all(torch.equal(own[name], known[name]) for name in known)


def test_mixtures_bring_all_their_experts() -> None:
    parents = [routed(2, 12, 2, [8], True), dense([12, 8])]
    model = merged(parents, routed(3, 12, 2, [8], last=True))
    layer, first = model.head.layers[0], parents[0].head.layers[0]
    assert torch.equal(layer.expert(1).up.weight, first.expert(1).up.weight)
    assert torch.equal(layer.expert(2).up.weight, parents[1].head.layers[0].weight)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"3 experts, but the 2 trained models bring 2"):
        MERGE.check(routed(3, 24, 2, [], False), [dense([24]), dense([24])])
    with pytest.raises(InputError, match="-> 16 ->"):
        MERGE.check(routed(2, 24, 2, [], False), [dense([24]), dense([16])])
    with pytest.raises(InputError, match="in the mixture"):
        MERGE.check(routed(2, 24, 2, [8], True), [dense([24, 8]), dense([24, 7])])
