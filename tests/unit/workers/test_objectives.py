"""Objectives: losses, scores between 0 and 1, and what targets they take."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from workers.contract import InputError
from workers.parsing import choose
from workers.supervised.objectives import OBJECTIVES, measured, sums
from workers.supervised.signals import NORM_STEPS, Interval, slope


def build(kind: str, **settings):
    cls, config, problems = choose(OBJECTIVES, {"kind": kind, **settings}, "objective")
    assert not problems
    return cls(config)


def build_tokens(bytes_of: tuple[int, ...] = (0, 1, 3)):
    objective = build("language_modelling")
    objective.measure_in(torch.tensor(bytes_of))
    return objective


TARGETS = {
    "classification": torch.tensor([0, 2, 1]),
    "regression": torch.randn(3, 3),
    "language_modelling": torch.tensor([[1, 2], [2, 0], [1, 1]]),
}
OUTPUTS = {"language_modelling": (3, 2, 3)}


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_builds_from_default_config(kind):
    y = TARGETS[kind]
    objective = build_tokens() if kind == "language_modelling" else build(kind)
    outputs = torch.randn(OUTPUTS.get(kind, (3, 3)))
    objective.check(y, 3, "here")
    assert objective.loss(outputs, y).shape == ()
    score = objective.score(outputs, y)
    assert score.shape == (3,)
    assert bool(((score >= 0) & (score <= 1)).all())
    values = objective.summed(outputs, y)
    assert {value.shape for value in values.values()} == {(3,)}
    told = objective.summary(sums(values), 3)
    assert told["loss"] == pytest.approx(float(objective.loss(outputs, y)), rel=1e-5)
    assert 0 <= told["score"] <= 1


def test_sums_give_the_means_of_scores_bit_for_bit():
    objective, y = build("classification"), torch.randint(0, 3, (997,))
    values = objective.summed(torch.randn(997, 3), y)
    values = {name: value.double() for name, value in values.items()}
    told = objective.summary(sums(values), 997)
    assert told == {name: float(value.mean()) for name, value in values.items()}


# ---------------------------------------------------------------- language modelling


def test_bits_per_byte_are_a_ratio_of_totals():
    objective = build_tokens()
    y = torch.tensor([[1, -100], [2, 2]])
    logits = torch.zeros(2, 2, 3)
    logits[1, :, 2] = 9.0
    told = objective.summary(sums(objective.summed(logits, y)), 2)
    nats = functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum")
    assert told["bits_per_byte"] == pytest.approx(float(nats) / math.log(2) / (1 + 3 + 3))
    assert told["loss"] == pytest.approx(float(nats) / 3)
    assert told["perplexity"] == pytest.approx(math.exp(float(nats) / 3))
    assert told["token_accuracy"] == pytest.approx(2 / 3)
    assert told["score"] == pytest.approx(1 - told["bits_per_byte"] / 8)
    mean = float(objective.score(logits, y).mean())
    assert mean != pytest.approx(told["score"], abs=1e-3), "no mean of ratios"


def test_a_loss_is_linear_in_samples():
    """Windows with few targets: shares of a batch weighted by their samples are the batch's."""
    objective = build_tokens()
    y = torch.randint(0, 3, (6, 4))
    y[:3, 1:] = -100
    logits = torch.randn(6, 4, 3)
    whole = objective.loss(logits, y)
    split = (2 * objective.loss(logits[:2], y[:2]) + 4 * objective.loss(logits[2:], y[2:])) / 6
    assert torch.allclose(whole, split)
    assert not torch.allclose(whole, functional.cross_entropy(logits.flatten(0, 1), y.flatten()))


def test_a_part_without_text_to_predict_is_neither_a_fault_nor_nan():
    objective = build_tokens()
    y = torch.full((1, 2), -100)
    told = objective.summary(sums(objective.summed(torch.zeros(1, 2, 3), y)), 1)
    assert told["bits_per_byte"] == 0.0
    assert told["perplexity"] == 1.0


def test_a_hopeless_model_scores_nothing():
    objective = build_tokens((1, 1, 1))
    logits = torch.zeros(1, 1, 3)
    logits[0, 0, 0] = 5000.0
    told = objective.summary(sums(objective.summed(logits, torch.tensor([[1]]))), 1)
    assert told["score"] == 0.0
    assert math.isfinite(told["perplexity"])


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (torch.tensor([1, 2]), "next tokens int64 [N, S]"),
        (torch.tensor([[1, 3]]), "targets 1 to 3; allowed: -100 (none), and tokens 0 to 2"),
        (torch.tensor([[1, -5]]), "targets -5 to 1"),
    ],
)
def test_targets_that_are_no_tokens_are_refused(y, words):
    with pytest.raises(InputError) as caught:
        build_tokens().check(y, 3, "here")
    assert words in str(caught.value)
    with pytest.raises(InputError, match="nobody said how many bytes a token stands for"):
        build("language_modelling").check(torch.tensor([[1]]), 3, "here")


@pytest.mark.parametrize(
    ("window", "vocabulary", "kept"), [(128, 4096, 16), (128, 49_152, 2), (4096, 262_144, 1)]
)
def test_probes_of_tokens_keep_few_outputs(window, vocabulary, kept):
    assert build("language_modelling").kept(256, (window,), vocabulary) == kept
    assert build("language_modelling").kept(1, (window,), vocabulary) == 1
    assert build("classification").kept(256, (1, 28, 28), 10) == 256


# ---------------------------------------------------------------- targets of labels and numbers


@pytest.mark.parametrize(
    ("kind", "y", "words"),
    [
        ("classification", torch.tensor([0, 3]), "labels 0 to 3"),
        ("classification", torch.zeros(2, 3), "classification needs labels int64"),
        ("regression", torch.tensor([0, 1]), "regression needs float32"),
        ("regression", torch.zeros(2, 4), "regression needs float32 [N, 3]"),
    ],
)
def test_targets_of_another_kind_are_refused(kind, y, words):
    with pytest.raises(InputError) as caught:
        build(kind).check(y, 3, "stream s, task 't'")
    assert words in str(caught.value)
    assert "stream s, task 't'" in str(caught.value)


@given(error=st.floats(0, 5), scale=st.floats(0.1, 3))
def test_regression_score_is_one_minus_the_normalised_error(error, scale):
    y = torch.zeros(1, 2)
    score = float(build("regression", scale=scale).score(y + error, y))
    assert score == pytest.approx(max(0.0, 1 - (error / scale) ** 2), abs=1e-5)


def test_a_scale_must_be_positive():
    _, config, problems = choose(OBJECTIVES, {"kind": "regression", "scale": 0.0}, "objective")
    assert config is None
    assert "scale must be positive" in str(problems[0])


def test_measuring_keeps_the_mode_and_knows_batches():
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    x, y = torch.randn(10, 4), torch.arange(10) % 3
    for training in (True, False):
        model.train(training)
        found = measured(model, build("classification"), x, y, 4)
        assert model.training is training
    whole = measured(model, build("classification"), x, y, 10)
    assert torch.equal(found["score"], whole["score"])
    assert found["score"].dtype == torch.float64
    assert set(whole) == {"score", "loss"}


# ---------------------------------------------------------------- signals


def test_slope_is_that_of_least_squares():
    assert slope(torch.tensor([3.0])) == 0.0
    assert slope(torch.tensor([1.0, 3.0, 5.0])) == pytest.approx(2.0)
    values = torch.rand(50)
    x = torch.arange(50.0)
    design = torch.stack([x, torch.ones(50)], 1)
    expected = torch.linalg.lstsq(design, values[:, None]).solution[0, 0]
    assert slope(values) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("steps", [1, 5, 16, 17, 400])
def test_norms_are_measured_at_few_steps_up_to_the_last(steps):
    measured_at = Interval(100, steps, always=False).measured
    assert len(measured_at) == min(steps, NORM_STEPS)
    assert max(measured_at) == 100 + steps - 1
    assert min(measured_at) >= 100
    assert len(Interval(0, steps, always=True).measured) == steps


def test_sums_are_weighted_terms():
    interval = Interval(0, 2, always=False)
    for value in (1.0, 2.0):
        interval.terms["loss/z/l"].append(torch.tensor(value) * 0.5)
    (total,) = interval.sums().values()
    assert total.dtype == torch.float64
    assert math.isclose(float(total), 1.5)
