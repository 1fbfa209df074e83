"""Golden values on two matrices on which the field's formulas disagree, and their properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.report.metrics import ALONE, METRICS, summarise

G1 = [
    [0.976, 0.0, 0.0, 0.0, 0.0],
    [0.920, 0.878, 0.0, 0.0, 0.0],
    [0.926, 0.862, 0.568, 0.0, 0.0],
    [0.819, 0.445, 0.766, 0.544, 0.0],
    [0.821, 0.658, 0.803, 0.601, 0.967],
]
G2 = [[0.9, 0.85, 0.2], [0.6, 0.8, 0.4], [0.7, 0.5, 0.9]]

GOLDEN_1 = {
    "acc.final": 0.77,
    "acc.incremental": (0.976 + 0.899 + 2.356 / 3 + 0.6435 + 0.77) / 5,
    "acc.anytime_all": 0.46216,
    "acc.min": (0.819 + 0.445 + 0.766 + 0.601) / 4,
    "acc.worst_case": 0.967 / 5 + 4 / 5 * (0.819 + 0.445 + 0.766 + 0.601) / 4,
    "aaa": 0.8147666666666666,
    "learning_accuracy": 0.7866,
    "bwt.gem": -0.02075,
    "bwt.allpairs": -0.0597,
    "forgetting.first": 0.02075,
    "forgetting.all": 0.0166,
    "forgetting.max_prior": 0.07025,
    "forgetting.max": 0.09375,
    "fwt.gem": -0.1,
    "fwt.nobaseline": 0.0,
    "fwt.nobaseline_allpairs": 0.0,
}
GOLDEN_2 = {
    "acc.final": 0.7,
    "acc.incremental": 2.3 / 3,
    "acc.anytime_all": 0.65,
    "acc.min": 0.55,
    "acc.worst_case": 0.3 + 2 / 3 * 0.55,
    "aaa": 2.3 / 3,
    "learning_accuracy": 2.6 / 3,
    "plasticity.slope": 0.0,
    "bwt.gem": -0.25,
    "bwt.allpairs": -0.8 / 3,
    "forgetting.first": 0.25,
    "forgetting.all": 0.5 / 3,
    "forgetting.max_prior": 0.275,
    "forgetting.max": 0.25,
    "fwt.gem": 0.525,
    "fwt.nobaseline": 0.625,
    "fwt.nobaseline_allpairs": 1.45 / 3,
}


@pytest.mark.parametrize(("name", "value"), GOLDEN_1.items())
def test_measured_matrix(name: str, value: float) -> None:
    assert METRICS[name](G1, [0.1] * 5) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(("name", "value"), GOLDEN_2.items())
def test_full_square(name: str, value: float) -> None:
    assert METRICS[name](G2, [0.1] * 3) == pytest.approx(value, abs=1e-12)


def test_every_metric_has_a_golden_value_and_a_formula() -> None:
    assert set(METRICS) == set(GOLDEN_2)
    assert all(metric.__doc__ for metric in METRICS.values())


def test_missing_rows_count_as_a_stream_that_ended_there() -> None:
    assert summarise(G1[:3], [0.1] * 5) == summarise([row[:3] for row in G1[:3]], [0.1] * 3)


def test_one_stage_defines_no_transfer_and_no_forgetting() -> None:
    scores = summarise(G2[:1], [0.1] * 3)
    assert scores["acc.final"] == scores["learning_accuracy"] == 0.9
    assert not [name for name in scores if name.startswith(("bwt", "forgetting", "fwt", "plast"))]


def test_without_untrained_scores_only_their_metric_is_missing() -> None:
    assert set(METRICS) - set(summarise(G2)) == {"fwt.gem"}


def test_tasks_learnt_alone_have_only_the_scores_of_their_own_stages() -> None:
    found = summarise(G2, [0.1] * 3, ALONE)
    assert found == {"learning_accuracy": round(2.6 / 3, 12), "plasticity.slope": 0.0}
    rest = [[score if i == j else 7.0 for j, score in enumerate(row)] for i, row in enumerate(G2)]
    assert summarise(rest, (), ALONE) == found


def test_nothing_known_gives_nothing() -> None:
    assert summarise([]) == {}


scores = st.floats(0, 1)
squares = st.integers(2, 6).flatmap(
    lambda n: st.lists(st.lists(scores, min_size=n, max_size=n), min_size=n, max_size=n)
)


@given(squares)
def test_forgetting_definitions_are_ordered(matrix: list[list[float]]) -> None:
    found = summarise(matrix)
    assert found["forgetting.max"] >= 0
    assert found["forgetting.max"] >= found["forgetting.first"] - 1e-12
    assert found["forgetting.max_prior"] >= found["forgetting.first"] - 1e-12
    assert found["forgetting.first"] == pytest.approx(-found["bwt.gem"])


@given(squares)
def test_the_matrix_is_left_alone(matrix: list[list[float]]) -> None:
    before = [list(row) for row in matrix]
    summarise(matrix, [0.5] * len(matrix))
    assert matrix == before
