"""The objective sees learnt tasks only, and says what it cannot read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.report.metrics import METRICS
from tune_spaces.objective import parse
from workers.contract import InputError

SCORES = st.floats(0.0, 1.0)
SQUARES = st.integers(1, 5).flatmap(
    lambda n: st.lists(st.lists(SCORES, min_size=n, max_size=n), min_size=n, max_size=n)
)
EVERYTHING = " + ".join(METRICS)


@given(matrix=SQUARES, initial=st.lists(SCORES, min_size=5, max_size=5), data=st.data())
def test_scores_on_later_tasks_never_count(
    matrix: list[list[float]], initial: list[float], data: st.DataObject
) -> None:
    """After stage k: rows up to k and columns up to k, whatever stands beyond."""
    objective = parse(EVERYTHING)
    tasks = len(matrix)
    for stages in range(1, tasks + 1):
        other = [list(row) for row in matrix]
        for row in other:
            row[stages:] = data.draw(
                st.lists(SCORES, min_size=tasks - stages, max_size=tasks - stages)
            )
        untrained = initial[:stages] + [1.0 - score for score in initial[stages:]]
        assert objective(other[:stages], untrained) == objective(matrix[:stages], initial)


def test_weighted_sum() -> None:
    matrix = [[0.9, 0.0], [0.5, 0.7]]
    assert parse("acc.final")(matrix) == pytest.approx(0.6)
    assert parse("acc.final - 0.5*forgetting.max")(matrix) == pytest.approx(0.6 - 0.5 * 0.4)
    assert parse("return")(matrix) == parse("acc.final")(matrix)
    assert parse("-forgetting.max")(matrix[:1]) == 0.0  # nothing could be forgotten yet


@pytest.mark.parametrize("text", ["", "accuracy", "acc.final forgetting.max", "2*", "acc.final +"])
def test_what_is_no_objective(text: str) -> None:
    with pytest.raises(InputError, match="--objective"):
        parse(text)
