"""Intervals over seeds against scipy's own; differences by pairs and without."""

import pytest
from scipy import stats

from orchestrator.report.statistics import Estimate, difference, estimate

OURS = {0: 0.81, 1: 0.85, 2: 0.79, 3: 0.88}
THEIRS = {0: 0.78, 1: 0.80, 2: 0.77, 3: 0.83}


def test_the_interval_is_student_s() -> None:
    values = list(OURS.values())
    found = estimate(values)
    assert found is not None
    low, high = stats.t.interval(0.95, len(values) - 1, found.mean, stats.sem(values))
    assert found.mean == pytest.approx(sum(values) / 4)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))


def test_one_value_has_no_interval_and_none_no_estimate() -> None:
    assert estimate([0.5]) == Estimate(mean=0.5, half=None, count=1)
    assert estimate([]) is None
    assert Estimate(mean=0.5, half=None, count=1).text() == "0.500"


def test_seeds_in_common_are_compared_in_pairs() -> None:
    found = difference(OURS, THEIRS)
    assert found is not None
    pairs = [OURS[seed] - THEIRS[seed] for seed in OURS]
    interval = stats.ttest_rel(list(OURS.values()), list(THEIRS.values())).confidence_interval()
    assert found.mean == pytest.approx(sum(pairs) / 4)
    assert found.mean - found.half == pytest.approx(interval.low)
    assert not found.noise  # the seeds move together: more than noise, where means alone are not
    apart = difference(OURS, {seed + 10: value for seed, value in THEIRS.items()})
    assert apart is not None
    assert apart.noise


def test_other_seeds_are_compared_by_welch() -> None:
    others = {10: 0.70, 11: 0.74, 12: 0.60}
    found = difference(OURS, others)
    test = stats.ttest_ind(list(OURS.values()), list(others.values()), equal_var=False)
    assert found is not None
    assert found.mean + found.half == pytest.approx(test.confidence_interval().high)


def test_equal_values_are_within_noise() -> None:
    found = difference({0: 1.0, 1: 1.0}, {0: 1.0, 1: 1.0})
    assert found is not None
    assert found.noise
    assert difference({}, OURS) is None
