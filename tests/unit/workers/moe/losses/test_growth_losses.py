"""Losses that tell new experts from old: exclusivity, specialisation, balance of the new."""

from __future__ import annotations

import math

import pytest
import torch

from workers.moe.losses import LOSSES
from workers.moe.routed import Birth, Routed
from workers.moe.selectors import Dense, TopK

GROWN = (Birth(), Birth(), Birth("later"), Birth("later"))
LOGITS = torch.tensor(
    [[1.0, 0.5, -1.0, 2.0], [0.0, 0.0, 0.0, 0.0], [3.0, -2.0, 1.0, 0.5], [0.2, 0.1, 1.5, 1.4]]
)


def _routed(births=GROWN, grad=False) -> Routed:
    logits = LOGITS.clone().requires_grad_(grad)
    selector = TopK(TopK.Config(k=2))
    selection = selector.select(logits, None, True)
    return Routed(
        x=torch.zeros(4, 3),
        logits=logits,
        probabilities=torch.softmax(logits, 1),
        chosen=selection.chosen_TE,
        weights=selection.weights_TE,
        progress=0.0,
        births=births,
        domain_T=None,
        router=None,
        selector=selector,
    )


def _loss(kind: str, **settings):
    return LOSSES[kind](LOSSES[kind].Config(**settings))


def test_exclusivity_is_the_product_of_the_groups_probabilities() -> None:
    routed = _routed(grad=True)
    p = torch.softmax(LOGITS, 1).tolist()
    wanted = sum((row[0] + row[1]) * (row[2] + row[3]) for row in p) / 4
    loss = _loss("exclusivity").loss(routed)
    assert float(loss.detach()) == pytest.approx(wanted)
    loss.backward()
    assert routed.logits.grad.any()


def test_specialisation_is_the_cross_entropy_to_what_old_experts_leave() -> None:
    routed = _routed(grad=True)
    wanted = 0.0
    for row in torch.softmax(LOGITS, 1).tolist():
        g, left = row[2] + row[3], 1 - max(row[:2])
        wanted -= (left * math.log(g) + (1 - left) * math.log(1 - g)) / 4
    loss = _loss("new_specialisation").loss(routed)
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-5)
    loss.backward()
    assert routed.logits.grad.isfinite().all()
    assert (routed.logits.grad[0, 2:] < 0).all(), "descent raises new experts where old are unsure"


def test_balance_of_the_new_is_that_among_them() -> None:
    routed = _routed()
    loss = _loss("balance", experts="new").loss(routed)
    chose = routed.chosen[:, 2:].any(1)
    q = torch.softmax(LOGITS[:, 2:], 1)[chose]
    first = routed.weights[:, 2:][chose].argmax(1)
    share = torch.tensor([float((first == e).float().mean()) for e in range(2)])
    assert float(loss) == pytest.approx(float(2 * (share * q.mean(0)).sum()), rel=1e-5)
    plain = _loss("balance").loss(routed)
    assert abs(float(plain) - float(loss)) > 1e-3


@pytest.mark.parametrize("kind", ["exclusivity", "new_specialisation"])
def test_before_the_first_growth_there_is_nothing_to_learn(kind: str) -> None:
    assert _loss(kind).loss(_routed((Birth(),) * 4)) is None
    assert _loss("balance", experts="new").loss(_routed((Birth(),) * 4)) is None


def test_sure_tokens_have_finite_losses() -> None:
    routed = _routed(grad=True)
    far = torch.tensor([[200.0, 0, 0, 0], [0, 0, 200.0, 0]], requires_grad=True)
    sure = Routed(
        x=routed.x,
        logits=far,
        probabilities=torch.softmax(far, 1),
        chosen=routed.chosen,
        weights=routed.weights,
        progress=0.0,
        births=GROWN,
        domain_T=None,
        router=None,
        selector=Dense(Dense.Config()),
    )
    for kind in ("exclusivity", "new_specialisation"):
        loss = _loss(kind).loss(sure)
        assert loss.isfinite()
        loss.backward(retain_graph=True)
        assert far.grad.isfinite().all()
