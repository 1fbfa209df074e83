"""Objectives: losses, scores between 0 and 1, and what targets they take."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from workers.contract import InputError
from workers.parsing import choose
from workers.supervised.objectives import OBJECTIVES, measured
from workers.supervised.signals import NORM_STEPS, Interval, slope


def build(kind: str, **settings):
    cls, config, problems = choose(OBJECTIVES, {"kind": kind, **settings}, "objective")
    assert not problems
    return cls(config)


TARGETS = {"classification": torch.tensor([0, 2, 1]), "regression": torch.randn(3, 3)}


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_builds_from_default_config(kind):
    objective, y = build(kind), TARGETS[kind]
    outputs = torch.randn(3, 3, requires_grad=True)
    objective.check(y, 3, "here")
    assert objective.loss(outputs, y).shape == ()
    score = objective.score(outputs, y)
    assert score.shape == (3,)
    assert bool(((score >= 0) & (score <= 1)).all())
    figures = objective.figures(outputs, y)
    assert {values.shape for values in figures.values()} == {(3,)}
    assert torch.allclose(figures["loss"].mean(), objective.loss(outputs, y))


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
