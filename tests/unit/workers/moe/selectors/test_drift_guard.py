"""The drift guard: ambiguous tokens give new experts nothing in training, and all is open after."""

from __future__ import annotations

import pytest
import torch

from workers.moe.experts import LinearExpert
from workers.moe.growth.growable import Growth
from workers.moe.growth.initialisers import INITIALISERS
from workers.moe.layers import MoELayer
from workers.moe.routed import Birth, newest, observing
from workers.moe.selectors import SELECTORS, Dense, TopK

GUARD = SELECTORS["drift_guard"]
BIRTHS = {0: Birth(), 1: Birth(), 2: Birth("later"), 3: Birth("later")}


def _guard(inner=None, births=BIRTHS, **settings):
    guard = GUARD(GUARD.Config(inner=inner or Dense.Config(), **settings))
    guard.for_inputs(5)
    guard.experts_changed(births)
    return guard


def _select(guard, logits_TE, training, allowed_TE=None):
    return guard(torch.zeros(len(logits_TE), 5), logits_TE, allowed_TE, training)


def test_ambiguous_tokens_give_new_experts_nothing_in_training_only() -> None:
    torch.manual_seed(0)
    logits_TE = torch.randn(200, 4)
    selection = _select(_guard(), logits_TE, training=True)
    for logits_E, weights_E in zip(logits_TE.tolist(), selection.weights_TE, strict=True):
        old, new = max(logits_E[:2]), max(logits_E[2:])
        clear = new > old and abs(new - old) / (max(abs(new), abs(old)) + 1e-6) > 0.2
        if not clear:
            assert not weights_E[2:].any()
            wanted = torch.softmax(torch.tensor(logits_E[:2]), 0)
            torch.testing.assert_close(weights_E[:2], wanted)
        else:
            torch.testing.assert_close(weights_E, torch.softmax(torch.tensor(logits_E), 0))
    ambiguous = selection.weights_TE[:, 2:].sum(1) == 0
    assert 20 < int(ambiguous.sum()) < 180, "both kinds of tokens are there"
    free = _select(_guard(), logits_TE, training=False)
    torch.testing.assert_close(free.weights_TE, torch.softmax(logits_TE, 1))


def test_threshold_is_relative_to_the_larger_logit() -> None:
    logits_TE = torch.tensor([[1.0, -9.0, 1.3, -9.0], [1.0, -9.0, 1.2, -9.0], [-1.0, -9, -0.7, -9]])
    open_TE = _guard().open(logits_TE, None)
    assert open_TE[:, 2].tolist() == [True, False, True]
    assert _guard(threshold=0.5).open(logits_TE, None)[:, 2].tolist() == [False] * 3
    assert open_TE[:, :2].all()


def test_a_token_that_may_choose_new_experts_alone_keeps_them() -> None:
    logits_TE = torch.tensor([[5.0, 5.0, 0.0, 1.0]])
    allowed_TE = torch.tensor([[False, False, True, True]])
    found = _select(_guard(TopK.Config(k=2)), logits_TE, True, allowed_TE)
    assert found.chosen_TE.tolist() == [[False, False, True, True]]
    nobody = _select(_guard(TopK.Config(k=2)), logits_TE, True, torch.zeros(1, 4, dtype=bool))
    assert not nobody.chosen_TE.any()


def test_new_are_those_of_the_latest_growth() -> None:
    older, newer, copy = Birth("one"), Birth("two"), Birth("two", 0, "domain")
    assert newest([Birth(), Birth()]) == [False, False]
    assert newest([Birth(), older, older]) == [False, True, True]
    assert newest([Birth(), older, newer, newer]) == [False, False, True, True]
    assert newest([Birth(), older, copy]) == [False, True, False]
    plain = _select(_guard(births={0: Birth(), 1: Birth()}), torch.zeros(3, 2), True)
    torch.testing.assert_close(plain.weights_TE, torch.full((3, 2), 0.5))


def _grow(layer: MoELayer, experts: int, stage: str) -> None:
    random = INITIALISERS["random"](INITIALISERS["random"].Config())
    layer.grow(Growth(experts=experts, initialiser=random, seed=1, stage=stage))


def test_a_layer_that_grows_and_is_restored_guards_what_is_newest() -> None:
    config = MoELayer.Config(
        selector=GUARD.Config(inner=TopK.Config(k=2)), expert=LinearExpert.Config()
    )
    layer = MoELayer(config, 6, 4, 2, 6)
    before = {name: value.detach().clone() for name, value in layer.named_parameters()}
    _grow(layer, 3, "one")
    assert layer.selector.new.tolist() == [False, False, True]
    _grow(layer, 5, "two")
    assert layer.selector.new.tolist() == [False, False, False, True, True]
    assert all(torch.equal(layer.state_dict()[name], value) for name, value in before.items())
    other = MoELayer(config, 6, 4, 2, 6)
    other.ensure_arch(layer.arch())
    other.load_state_dict(layer.state_dict())
    assert other.selector.new.tolist() == layer.selector.new.tolist()
    x_TD = torch.randn(64, 6)
    torch.testing.assert_close(other(x_TD), layer(x_TD), rtol=0, atol=0)
    with observing(layer) as trained:
        layer(x_TD).square().sum().backward()
    mass_T = trained[""][0].weights[:, 3:].sum(1)
    clear_T = layer.selector.open(layer.router(x_TD, None), None)[:, 3]
    assert not mass_T[~clear_T].any()
    assert clear_T.any(), "some tokens are the new experts'"
    assert layer.router.rows["0"].grad.any()


def test_refused_settings() -> None:
    with pytest.raises(ValueError, match="threshold must not be negative"):
        GUARD.Config(threshold=-0.1)
    assert not GUARD.Config(inner=Dense.Config()).chooses_all
