"""The objective sees learnt tasks only, and says what it cannot read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.toml import to_toml
from orchestrator.core.plans import LanePlan
from orchestrator.report.lane_history import LaneHistory, Row
from orchestrator.report.metrics import METRICS
from tests.streams import OPTIONS
from tune_spaces import SPACES
from tune_spaces.objective import Objective, Scores, parse, scores_of
from tune_spaces.stream_file import base_of, with_settings
from tune_spaces.sweep import make_plan
from workers.contract import InputError, LaneSpec, TaskSpec

SCORES = st.floats(0.0, 1.0)
SQUARES = st.integers(1, 5).flatmap(
    lambda n: st.lists(st.lists(SCORES, min_size=n, max_size=n), min_size=n, max_size=n)
)
EVERYTHING = " + ".join(METRICS)
Rows = list[list[float]]


def value(objective: Objective, matrix: Rows, initial: list[float] | None = None) -> float:
    """After the last row of ``matrix``, which holds validation scores."""
    return objective(Scores(matrix, initial or ()), len(matrix))


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
    plan = LanePlan(
        spec=LaneSpec(lane="a-s0", trainer="rl", method="a", seed=0, settings={}),
        tasks=tuple(TaskSpec(index=i, name=str(i), domain="d") for i in range(2)),
        intervals=1,
        cpus=1,
        gpus=0,
        depends=("", ""),
        scored_on="",
    )
    lane = LaneHistory(plan, {})
    lane.rows[0] = Row(scores=[0.1, 0.0], validation=[0.9, 0.0], at=0.0)
    lane.rows[1] = Row(scores=[0.2, 0.3], validation=[0.5, 0.7], at=1.0)
    for text in ("acc.final", "return"):
        assert parse(text)(scores_of(lane), 2) == pytest.approx(0.6)
    lane.rows[1] = replace(lane.rows[1], validation=[])
    with pytest.raises(InputError, match=r"stream\.validation .* must be above 0"):
        parse("acc.final")(scores_of(lane), 2)


@pytest.mark.parametrize(
    ("space", "key", "where"),
    [
        ("growth", "stream.validation", "stream.validation"),
        ("ppo", "training.validation_episodes", "training.validation_episodes"),
    ],
)
def test_a_stream_without_a_validation_part_is_refused_before_anything_is_trained(
    space: str, key: str, where: str, tmp_path: Path
) -> None:
    found = SPACES[space]
    raw = base_of(found, None, None, space)
    file = tmp_path / "base.toml"
    file.write_text(to_toml(with_settings(raw, {key: 0})))
    with pytest.raises(InputError, match=f"no validation part.*set {where} above 0"):
        make_plan(space, file, None, **OPTIONS)
    file.write_text(to_toml(raw))
    assert make_plan(space, file, None, **OPTIONS).objective


@pytest.mark.parametrize("text", ["", "accuracy", "acc.final forgetting.max", "2*", "acc.final +"])
def test_what_is_no_objective(text: str) -> None:
    with pytest.raises(InputError, match="--objective"):
        parse(text)
