"""Figures of training scores over a stream, by hand."""

from __future__ import annotations

import pytest

from orchestrator.report.trainability import steps_to, summarise, trainability_ratio

FINALS = [1.0, 0.9, 0.95, 0.8, 0.7, 0.6]
CURVES = [[(10, score / 2), (20, score)] for score in FINALS]


def test_figures_by_hand() -> None:
    found = summarise(CURVES)
    # least squares: sum (i - 2.5) a_i / 17.5
    slope = (-2.5 * 1.0 - 1.5 * 0.9 - 0.5 * 0.95 + 0.5 * 0.8 + 1.5 * 0.7 + 2.5 * 0.6) / 17.5
    assert found == pytest.approx(
        {
            "train.first": 1.0,
            "train.last": 0.6,
            "train.slope": slope,
            "train.drop": -0.4,
            "train.ratio": (0.8 + 0.7 + 0.6) / (1.0 + 0.9 + 0.95),
            "train.steps.first": 20.0,
        }
    ), "the last task never comes to 95 % of the first"


def test_steps_are_those_of_the_first_interval_that_is_good_enough() -> None:
    curve = [(5, 0.2), (10, 0.97), (15, 0.9), (20, 1.0)]
    assert steps_to(curve, 0.95) == 10
    assert steps_to(curve, 1.1) is None
    assert summarise([curve, curve])["train.steps.last"] == 10.0


def test_too_little_says_nothing() -> None:
    assert summarise([]) == {}
    assert summarise([[(1, 0.5)], []]) == {}, "a stage without training scores"
    assert "train.slope" not in summarise([[(1, 0.5)]])
    assert trainability_ratio([1.0] * 5) is None
    assert trainability_ratio([0.0, 0.0, 0.0, 1.0, 1.0, 1.0]) is None
