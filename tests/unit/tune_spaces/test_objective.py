"""The objective sees learnt tasks only, and says what it cannot read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.report.metrics import METRICS
from tune_spaces.objective import Objective, Part, Scores, parse
from workers.contract import InputError

SCORES = st.floats(0.0, 1.0)
SQUARES = st.integers(1, 5).flatmap(
    lambda n: st.lists(st.lists(SCORES, min_size=n, max_size=n), min_size=n, max_size=n)
)
EVERYTHING = " + ".join(METRICS)
Rows = list[list[float]]


def value(
    objective: Objective, matrix: Rows, initial: list[float] | None = None, **test: Rows
) -> float:
    """After the last row of ``matrix``, which holds validation scores."""
    scores: dict[Part, Scores] = {
        "validation": Scores(matrix, initial or ()),
        "test": Scores(test.get("test", [])),
    }
    return objective(scores, len(matrix))


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
        assert value(objective, other[:stages], untrained) == value(
            objective, matrix[:stages], initial
        )


def test_weighted_sum() -> None:
    matrix = [[0.9, 0.0], [0.5, 0.7]]
    assert value(parse("acc.final"), matrix) == pytest.approx(0.6)
    mixed = parse("acc.final - 0.5*forgetting.max")
    assert value(mixed, matrix) == pytest.approx(0.6 - 0.5 * 0.4)
    assert value(parse("-forgetting.max"), matrix[:1]) == 0.0, "nothing could be forgotten yet"


def test_searches_choose_on_validation_and_never_see_test() -> None:
    validation, test = [[0.9, 0.0], [0.5, 0.7]], [[0.1, 0.0], [0.2, 0.3]]
    assert value(parse("acc.final"), validation, test=test) == pytest.approx(0.6)
    assert value(parse("return"), validation, test=test) == pytest.approx(0.25), "of episodes"
    with pytest.raises(InputError, match=r"no validation part: set stream\.validation"):
        value(parse("acc.final"), [[], []], test=test)
    assert value(parse("return"), [[], []], test=test) == pytest.approx(0.25)


@pytest.mark.parametrize("text", ["", "accuracy", "acc.final forgetting.max", "2*", "acc.final +"])
def test_what_is_no_objective(text: str) -> None:
    with pytest.raises(InputError, match="--objective"):
        parse(text)
