"""Signals that are measured only where a policy watches them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tests.fakes import tiny
from tests.unit.workers.supervised.loop import ROUTED, stages
from workers.moe.routed import routed_layers
from workers.supervised.signals import Coherence
from workers.supervised.trainer import SupervisedTrainer


def trained(signals: tuple[str, ...], **changes: Any) -> tuple[SupervisedTrainer, Any]:
    """A trainer after the first interval, and what that told."""
    config = tiny(**{"model": ROUTED, **changes})
    trainer = SupervisedTrainer()
    trainer.open(replace(config.lanes[0].spec(), signals=signals), None)
    trainer.start(stages(config)[0])
    return trainer, trainer.run_interval(1)


def test_coherence_is_the_mean_cosine_over_pairs() -> None:
    torch.manual_seed(3)
    model = nn.Linear(3, 2)
    seen, gradients = Coherence(), []
    for _ in range(4):
        weight, bias = torch.randn(2, 3), torch.randn(2)
        model.weight.grad, model.bias.grad = weight, bias
        seen.add(model)
        gradients.append(torch.cat([weight.flatten(), bias]))
    pairs = [(i, j) for i in range(4) for j in range(4) if i < j]
    cosines = [torch.cosine_similarity(gradients[i], gradients[j], dim=0) for i, j in pairs]
    assert seen.value() == pytest.approx(float(torch.stack(cosines).mean()), abs=1e-6)


def test_coherence_of_alike_opposite_single_and_absent_gradients() -> None:
    model = nn.Linear(1, 1, bias=False)
    seen = Coherence()
    for value in (2.0, 5.0):
        model.weight.grad = torch.tensor([[value]])
        seen.add(model)
        assert seen.value() is None or seen.value() == pytest.approx(1.0)
    model.weight.grad = torch.tensor([[0.0]])
    seen.add(model)
    assert seen.count == 2, "no direction"
    model.weight.grad = torch.tensor([[-1.0]])
    seen.add(model)
    assert seen.value() == pytest.approx((1 - 1 - 1) / 3)


def test_they_come_where_they_are_watched_and_change_no_bit() -> None:
    every = ("gradient_coherence", "validation_score", "newest_gain")
    plain, without = trained(())
    asking, told = trained(every)
    assert not {name.partition("/")[0] for name in without.signals} & set(every)
    assert {name.partition("/")[0] for name in told.signals} >= set(every)
    assert {**told.signals, **without.signals} == told.signals
    for own, other in zip(plain.model.parameters(), asking.model.parameters(), strict=True):
        assert torch.equal(own, other)


def test_the_newest_experts_gain_is_the_score_it_adds() -> None:
    trainer, told = trained(("newest_gain",))
    (name, layer), *_ = routed_layers(trainer.model).items()
    part = trainer.stage.validated
    own = layer.selector.forward

    def closed(x: Any, logits: Any, allowed: Any, training: bool) -> Any:
        newest = torch.zeros_like(logits, dtype=torch.bool)
        newest[:, -1] = True
        return own(x, logits, ~newest, training)

    def accuracy() -> float:
        with torch.no_grad():
            return float((trainer.model.eval()(part.x).argmax(1) == part.y).double().mean())

    whole = accuracy()
    layer.selector.forward = closed
    assert told.signals[f"newest_gain/{name}"] == pytest.approx(whole - accuracy(), abs=1e-9)


def test_a_layer_with_one_expert_and_a_stage_without_validation_tell_no_gain() -> None:
    one = {"head": {"kind": "moe", "hidden": [24]}}
    assert not any("newest" in name for name in trained(("newest_gain",), model=one)[1].signals)
    none = {"kind": "split", "dataset": "digits", "validation": 0.0}
    _, told = trained(("validation_score", "newest_gain"), stream=none)
    assert not {name for name in told.signals if "newest" in name or "validation" in name}
