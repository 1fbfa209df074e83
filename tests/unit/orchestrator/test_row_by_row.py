"""Metrics after each row against the same metrics of the leading block, holes and all."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.report.metrics import ALONE, METRICS, summarise
from orchestrator.report.row_by_row import RowByRow, after_each

SCORES = st.one_of(st.floats(-1.0, 1.0), st.sampled_from([0.0, 0.5, 1.0, math.nan]))


def square(tasks: int) -> st.SearchStrategy[list[list[float]]]:
    row = st.lists(SCORES, min_size=tasks, max_size=tasks)
    return st.lists(row, min_size=tasks, max_size=tasks)


@given(st.integers(1, 6).flatmap(square), st.booleans())
def test_each_row_says_what_its_leading_block_says(R: list[list[float]], known: bool) -> None:
    initial = [0.1 * task for task in range(len(R))] if known else []
    rows = RowByRow()
    for count, row in enumerate(R, start=1):
        assert rows.add(row, initial) == pytest.approx(summarise(R[:count], initial), abs=1e-9)


@given(st.integers(1, 6).flatmap(square))
def test_untrained_scores_that_come_late_add_what_they_would_have(R: list[list[float]]) -> None:
    initial = [0.1 * task for task in range(len(R))]
    early, late = RowByRow(), RowByRow()
    wanted = [early.add(row, initial) for row in R]
    found = [late.add(row) for row in R]
    added = late.late(initial)
    assert [a | b for a, b in zip(found, added, strict=True)] == wanted


def test_only_metrics_that_are_wanted() -> None:
    R = [[0.9, 0.1], [0.5, 0.8]]
    assert set(after_each(R, ALONE)[1]) == set(ALONE)
    assert set(after_each(R, METRICS)[1]) == set(METRICS) - {"fwt.gem"}
