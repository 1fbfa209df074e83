"""Loss-free balancing: the bias decides the choice only and follows the load once a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from workers.moe.routed import Birth
from workers.moe.selectors import LossFree


def _logits(tokens: int, experts: int, seed: int = 0) -> Tensor:
    return torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed))


def _selector(experts: int = 4, **settings: Any) -> LossFree:
    selector = LossFree(LossFree.Config(**settings))
    selector.experts_changed({number: Birth() for number in range(experts)})
    return selector


@pytest.mark.parametrize("scores", ["sigmoid", "softmax"])
@pytest.mark.parametrize("weights", ["scores", "normalised"])
def test_the_bias_is_for_the_choice_alone(scores: str, weights: str) -> None:
    selector = _selector(scores=scores, weights=weights)
    selector.bias = torch.tensor([0.0, 0.6, -0.6, 0.1])
    logits_TE = _logits(60, 4)
    found = selector.select(logits_TE, None, False)
    score_TE = logits_TE.sigmoid() if scores == "sigmoid" else torch.softmax(logits_TE, 1)
    best_TK = (score_TE + selector.bias).argsort(1, descending=True)[:, :2]
    wanted_TE = torch.zeros(60, 4).scatter(1, best_TK, score_TE.gather(1, best_TK))
    if weights == "normalised":
        wanted_TE = wanted_TE / wanted_TE.sum(1, keepdim=True)
    torch.testing.assert_close(found.weights_TE, wanted_TE)
    assert bool((found.as_slots().weights_TK.diff(dim=1) <= 0).all()), "the best by weight is first"
    plain = _selector(scores=scores, weights=weights).select(logits_TE, None, False)
    assert not torch.equal(plain.chosen_TE, found.chosen_TE)


def test_biases_move_against_the_load_once_a_step() -> None:
    selector = _selector(3, rate=0.01, k=1)
    bias_E = torch.zeros(3)
    for step in range(5):
        selector.step_begins()
        assert torch.equal(selector.bias, bias_E)
        load_E = torch.zeros(3)
        for part in range(2):
            logits_TE = _logits(20, 3, seed=2 * step + part) + torch.tensor([1.0, 0.0, -1.0])
            chosen_T = (logits_TE.sigmoid() + bias_E).argmax(1)
            load_E += chosen_T.bincount(minlength=3) / 20
            selector.select(logits_TE, None, True)
            selector.select(logits_TE, None, False)  # evaluation moves nothing
        bias_E = bias_E + 0.01 * (load_E.mean() - load_E).sign()
    assert float(bias_E.abs().max()) > 0.02


def test_it_balances_what_a_router_prefers() -> None:
    selector = _selector(4, rate=0.02, k=1)
    logits_TE = 0.5 * _logits(400, 4) + torch.tensor([1.0, 0.0, 0.0, -1.0])
    shares = []
    for _ in range(60):
        selector.step_begins()
        counts_E = selector.select(logits_TE, None, True).as_slots().counts_E
        shares.append(float(counts_E.max()) / 400)
    assert shares[0] > 0.6
    assert shares[-1] < 0.35


def test_biases_stay_with_their_experts() -> None:
    selector = _selector(3)
    selector.bias, selector.load = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 3.0])
    births = {0: Birth(), 2: Birth(), 3: Birth(parent=2), 4: Birth()}
    selector.experts_changed(births)
    torch.testing.assert_close(selector.bias, torch.tensor([0.1, 0.3, 0.3, 0.0]))
    assert selector.load.tolist() == [1.0, 3.0, 0.0, 0.0]


@pytest.mark.parametrize("wrong", [{"k": 0}, {"rate": -1.0}, {"k": 1, "weights": "normalised"}])
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        LossFree.Config(**wrong)
