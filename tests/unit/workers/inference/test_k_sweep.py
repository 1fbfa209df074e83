"""k_sweep: the k largest experts with the selector's own kind of weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.routed import INPUTS, Two, by_hand, subject
from workers.contract import InputError
from workers.inference.k_sweep import KSweep

DENSE, TOP2 = {"kind": "dense"}, {"kind": "topk", "k": 2}
FULL = {"kind": "topk", "k": 2, "weights": "full"}


def prepared(model: Any, **settings: Any) -> KSweep:
    policy = KSweep(KSweep.Config(**settings))
    policy.prepare(subject(model))
    return policy


def k_of(k: int, shares: bool) -> Any:
    """Weights of the k largest of a softmax over all, of sum 1 or as they are."""

    def weights(r: Tensor) -> Tensor:
        p = r.softmax(-1)
        kept = torch.zeros_like(p).scatter(1, p.topk(k, -1).indices, 1.0) * p
        return kept / kept.sum(-1, keepdim=True) if shares else kept

    return weights


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize(("selector", "shares"), [(DENSE, True), (TOP2, True), (FULL, False)])
def test_the_k_largest_run(selector: Any, shares: bool, k: int) -> None:
    model, x = Two(selector), torch.randn(7, INPUTS)
    hidden = by_hand(model.first, x, k_of(k, shares)).tanh()
    expected = by_hand(model.last, hidden, k_of(k, shares))
    assert torch.allclose(prepared(model, k=k).answer(model, x), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("selector", "own"), [(DENSE, 3), (TOP2, 2), (FULL, 2), (TOP2 | {"k": 3}, 3)]
)
def test_its_own_k_is_the_plain_model(selector: Any, own: int) -> None:
    model, x = Two(selector), torch.randn(7, INPUTS)
    assert torch.allclose(prepared(model, k=own).answer(model, x), model(x), atol=1e-6)


def test_every_k_is_a_choice() -> None:
    model, x = Two(TOP2), torch.randn(7, INPUTS)
    policy = prepared(model)
    assert list(policy.choices) == [1, 2, 3]
    assert prepared(model, k=1).choices == ()
    policy.choose(3)
    assert torch.equal(policy.answer(model, x), prepared(model, k=3).answer(model, x))
    assert prepared(model, choose="task").by_task


def test_an_ensemble_is_the_mean_of_the_probabilities() -> None:
    model, x = Two(TOP2), torch.randn(7, INPUTS)
    each = [prepared(model, k=k).answer(model, x).softmax(-1) for k in (1, 2, 3)]
    found = prepared(model, ensemble=True).answer(model, x)
    assert torch.allclose(found.exp(), sum(each) / 3, atol=1e-6)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="k must be at least 1"):
        KSweep.Config(k=0)
    with pytest.raises(ValueError, match="leave k = 2 out"):
        KSweep.Config(k=2, ensemble=True)
    with pytest.raises(InputError, match="keeps its k through an episode"):
        KSweep(KSweep.Config(ensemble=True)).prepare(subject(Two(TOP2), kind="acts"))
