"""Which models are scored on what, and what is made of a matrix with holes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from orchestrator.beginning import begin, joined, takeover
from orchestrator.config.file import ConfigError, restore
from orchestrator.config.plan import as_json, plan
from orchestrator.core.actions import Evaluate
from orchestrator.core.journal import Journal, read
from orchestrator.driver import Driver
from orchestrator.evaluations import EVALUATIONS
from orchestrator.report.history import report
from orchestrator.report.metrics import METRICS, summarise, terms_of
from orchestrator.report.results import print_report
from orchestrator.report.row_by_row import after_each
from orchestrator.report.text import part_text
from tests.fakes import FakeExecutor, tiny
from workers.parsing import checked

nan = math.nan
ENDS = tuple(range(6))


def columns(**settings: Any) -> list[tuple[int, ...]]:
    """After each of six stages, the first model's row apart."""
    kind, config = checked(EVALUATIONS, settings)
    made = kind(config)
    assert made.columns(-1, 6, ENDS) == ENDS
    return [made.columns(index, 6, ENDS) for index in range(6)]


def test_all_is_every_model_on_every_task() -> None:
    assert columns(kind="all") == [ENDS] * 6


def test_every_so_many_stages_and_the_last() -> None:
    assert columns(kind="every", stages=4) == [(), (), (), ENDS, (), ENDS]
    assert columns(kind="every", stages=1) == [ENDS] * 6


def test_a_window_around_each_stage() -> None:
    found = columns(kind="window", behind=2, ahead=1)
    assert found == [(0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), ENDS]
    assert columns(kind="window", behind=1, ahead=0)[:5] == [(0,), (1,), (2,), (3,), (4,)]


def test_a_sample_holds_the_stage_s_own_task_and_is_the_same_each_time() -> None:
    found = columns(kind="sample", tasks=2)
    assert all(index in row and len(row) == 3 for index, row in enumerate(found[:5]))
    assert len(set(found[:5])) > 1
    assert found == columns(kind="sample", tasks=2) != columns(kind="sample", tasks=2, seed=1)
    assert columns(kind="sample", tasks=100) == [ENDS] * 6


def test_a_stage_that_is_no_task_of_its_own_is_told_by_when_tasks_are_learnt() -> None:
    kind, config = checked(EVALUATIONS, {"kind": "window", "behind": 1, "ahead": 0})
    assert kind(config).columns(1, 4, (1, 1, 3)) == (0, 1)
    assert kind(config).columns(0, 4, (1, 1, 3)) == ()


# ---------------------------------------------------------------- metrics of what is known

FULL = [[0.9, 0.1, 0.2], [0.6, 0.8, 0.4], [0.7, 0.5, 0.9]]


def test_a_metric_is_the_mean_of_the_terms_that_are_known() -> None:
    holes = [[0.9, nan, 0.2], [nan, 0.8, 0.4], [0.7, 0.5, 0.9]]
    found, whole = summarise(holes, [0.1] * 3), summarise(FULL, [0.1] * 3)
    exact = ("acc.final", "learning_accuracy", "plasticity.slope", "bwt.gem", "forgetting.first")
    assert {name: found[name] for name in exact} == {name: whole[name] for name in exact}
    assert found["acc.incremental"] == pytest.approx((0.9 + 0.7) / 2)
    assert found["fwt.nobaseline"] == 0.4
    assert found["acc.min"] == 0.5
    assert terms_of(holes, [0.1] * 3) == {
        "acc.incremental": (2, 3),
        "acc.anytime_all": (7, 9),
        "acc.min": (1, 2),
        "acc.worst_case": (2, 3),
        "aaa": (2, 3),
        "bwt.allpairs": (2, 3),
        "forgetting.max_prior": (0, 2),
        "forgetting.max": (1, 2),
        "fwt.gem": (1, 2),
        "fwt.nobaseline": (1, 2),
        "fwt.nobaseline_allpairs": (2, 3),
    }
    assert "forgetting.max_prior" not in found
    assert terms_of(FULL, [0.1] * 3) == {}


def test_a_row_that_nobody_asked_for_is_a_hole() -> None:
    rows = [[nan] * 3, [0.6, 0.8, 0.4], [0.7, 0.5, 0.9]]
    found = summarise(rows)
    assert found["learning_accuracy"] == pytest.approx(0.85)
    assert found["plasticity.slope"] == pytest.approx(0.1)
    assert found["forgetting.first"] == pytest.approx(0.3)
    assert terms_of(rows)["forgetting.first"] == (1, 2)


def test_no_metric_of_nothing_known() -> None:
    assert summarise([[nan, nan], [nan, nan]], [nan, nan]) == {}
    assert set(terms_of([[nan] * 2] * 2, [nan] * 2)) == set(METRICS)


def test_metrics_after_each_row_leave_out_what_is_not_known() -> None:
    rows = [[nan] * 3, [0.6, 0.8, nan], [0.7, 0.5, 0.9]]
    told = after_each(rows, ("acc.final", "learning_accuracy", "forgetting.max"))
    assert told[0] == {}
    assert told[1] == {"acc.final": 0.7, "learning_accuracy": 0.8}
    assert told[2]["forgetting.max"] == pytest.approx(summarise(rows)["forgetting.max"])


# ---------------------------------------------------------------- whole runs


def run(path: Path, executor: FakeExecutor, resumed: bool = False, **changes: Any) -> Driver:
    config = tiny(**changes)
    driver = Driver(config, Journal(path), executor)
    driver.run(*((takeover(2, 0),) if resumed else (begin(config, "run"), joined(2, 0))))
    driver.journal.close()
    return driver


def asked(executor: FakeExecutor) -> dict[int, list[int]]:
    found = [action for action in executor.performed if isinstance(action, Evaluate)]
    assert len({action.index for action in found}) == len(found), "asked twice"
    return {action.index: [task.index for task in action.tasks] for action in found}


def told(path: Path) -> Any:
    return report(record for record, _ in read(path))["lanes"][0]


@pytest.mark.parametrize(
    ("evaluation", "wanted"),
    [
        ({"kind": "every", "stages": 2}, {1: [0, 1, 2, 3, 4], 3: [0, 1, 2, 3, 4]}),
        (
            {"kind": "window", "behind": 1, "ahead": 1},
            {0: [0, 1], 1: [1, 2], 2: [2, 3], 3: [3, 4]},
        ),
    ],
)
def test_a_run_asks_for_what_is_to_be_scored(
    tmp_path: Path, evaluation: Any, wanted: dict[int, list[int]], capsys: Any
) -> None:
    executor, path = FakeExecutor(), tmp_path / "journal.jsonl"
    driver = run(path, executor, evaluation=evaluation)
    assert driver.state.status == "done"
    whole = list(range(5))
    assert asked(executor) == {-1: whole, **wanted, 4: whole}
    lane = told(path)
    assert lane["evaluation"]["kind"] == evaluation["kind"]
    for index, row in enumerate(lane["matrix"]):
        scored = wanted.get(index, whole if index == 4 else [])
        assert [place for place, score in enumerate(row) if score is not None] == scored
    assert "acc.final" in lane["metrics"]
    assert lane["metrics_from"]["acc.anytime_all"] == [sum(map(len, wanted.values())) + 5, 25]
    assert "acc.final" not in lane["metrics_from"]
    assert "acc.anytime_all" in part_text(lane)
    print_report(report(record for record, _ in read(path)))
    assert f"scored by evaluation {evaluation['kind']}" in capsys.readouterr().out


def test_a_run_that_scores_all_says_nothing_of_it(tmp_path: Path) -> None:
    run(tmp_path / "journal.jsonl", FakeExecutor())
    lane = told(tmp_path / "journal.jsonl")
    assert lane["metrics_from"] == {}
    assert part_text(lane) == ""


def test_killed_after_any_record_a_resume_asks_for_no_more(tmp_path: Path) -> None:
    whole, evaluation = tmp_path / "whole.jsonl", {"kind": "every", "stages": 2}
    run(whole, FakeExecutor(), evaluation=evaluation)
    lines = whole.read_bytes().splitlines(keepends=True)
    for kept in range(2, len(lines), 3):
        path, executor = tmp_path / f"{kept}.jsonl", FakeExecutor()
        path.write_bytes(b"".join(lines[:kept]))
        assert run(path, executor, resumed=True, evaluation=evaluation).state.status == "done"
        assert set(asked(executor)) <= {-1, 1, 3, 4}
        assert told(path)["matrix"] == told(whole)["matrix"]


# ---------------------------------------------------------------- the door


def test_a_lane_may_have_its_own() -> None:
    lanes = [{"name": "a"}, {"name": "b", "evaluation": {"kind": "window", "behind": 3}}]
    config = tiny(evaluation={"kind": "every", "stages": 2}, lanes=lanes)
    assert [lane.evaluation.kind for lane in config.lanes] == ["every", "window"]
    assert config.lanes[1].evaluation.behind == 3
    assert restore(config.plain()) == config
    found = as_json(config, plan(config))
    assert [lane["scores"] for lane in found["lanes"]] == [4 * 5, 5 + 2 + 3 + 4 + 4 + 5]
    assert found["lanes"][0]["evaluations"] == 4
    assert found["lanes"][0]["evaluation"] == {"kind": "every", "stages": 2}


def test_what_is_scored_changes_no_stage_but_rows_are_not_shared() -> None:
    lanes = [{"name": "a"}, {"name": "b", "evaluation": "window"}]
    one, other = plan(tiny(lanes=lanes))
    assert [stage.id for stage in one.stages] == [stage.id for stage in other.stages]
    first, second = (lane.plan().scored_on for lane in tiny(lanes=lanes).lanes)
    assert first != second


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ("most", "evaluation.kind: unknown name 'most'; allowed: all, every, sample, window"),
        ({"kind": "every", "stages": 0}, "stages must be at least 1, got 0"),
        ({"kind": "window", "behind": 0}, "behind must be at least 1"),
        ({"kind": "sample", "tasks": -1}, "tasks must be at least 0"),
        ({"kind": "all", "stages": 2}, "evaluation.stages: unknown key"),
    ],
)
def test_what_cannot_be_is_refused(evaluation: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny(evaluation=evaluation)
    assert message in str(caught.value)


def test_policies_that_wait_for_scores_need_them_all() -> None:
    waits = {"kind": "progress_or_timeout"}
    with pytest.raises(ConfigError, match=r"evaluation.kind: got 'every'; policies .* wait"):
        tiny(
            policies={"growth": waits},
            evaluation="every",
            stream={"kind": "split", "dataset": "digits", "validation": 0.2},
        )
