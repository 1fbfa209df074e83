"""Failures: what the controller makes of them, the report tells of the same journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.beginning import begin, joined, takeover
from orchestrator.config.run import RunConfig
from orchestrator.core.actions import (
    Action,
    CloseLane,
    Evaluate,
    OpenLane,
    RunInterval,
    SaveCheckpoint,
    StartStage,
)
from orchestrator.core.controller import fold
from orchestrator.core.journal import Journal, read
from orchestrator.core.records import Record
from orchestrator.core.state import LaneState
from orchestrator.driver import Driver
from orchestrator.report.history import RunHistory, report
from orchestrator.tracking.projection import Projection
from orchestrator.tracking.writes import CloseRun
from tests.fakes import FakeExecutor, tiny
from workers.contract import Json


def run(
    folder: Path, config: RunConfig, executor: FakeExecutor, resume: bool = False
) -> tuple[dict[str, LaneState], dict[str, Json]]:
    """The lanes of one whole run: what the controller says, and what the report says."""
    journal = Journal(folder / "journal.jsonl")
    driver = Driver(config, journal, executor)
    room = executor.room
    driver.run(*([takeover(room, 0)] if resume else [begin(config, "run"), joined(room, 0)]))
    journal.close()
    records = [record for record, _ in read(journal.path)]
    assert fold(records)[0] == driver.state
    told = report(records)
    assert told["status"] == driver.state.status
    lanes = {lane["lane"]: lane for lane in told["lanes"]}
    for name, lane in driver.state.lanes.items():
        if lane.status in ("done", "failed"):
            assert lanes[name]["status"] == lane.status
    return dict(driver.state.lanes), lanes


def test_losses_spread_over_stages_are_counted_per_stage(tmp_path: Path) -> None:
    def fail(action: Action, seen: int) -> Any:
        return "worker_lost" if isinstance(action, StartStage) and seen == 1 else None

    lanes, told = run(tmp_path, tiny(), FakeExecutor(fail))
    assert lanes["finetune-s0"].status == "done"
    assert told["finetune-s0"]["failures"] == 5, "more than one stage's budget"


def test_losses_after_a_stage_count_for_the_next(tmp_path: Path) -> None:
    """Two at the end of a stage, two before the next has started: neither budget is spent."""

    def fail(action: Action, seen: int) -> Any:
        saved = isinstance(action, SaveCheckpoint) and action.index == 0
        started = isinstance(action, StartStage) and action.stage.index == 1
        return "worker_lost" if (saved or started) and seen <= 2 else None

    lanes, told = run(tmp_path, tiny(), FakeExecutor(fail))
    assert lanes["finetune-s0"].status == "done"
    assert told["finetune-s0"]["failures"] == 4


def test_losses_of_one_stage_spend_its_budget(tmp_path: Path) -> None:
    def fail(action: Action, seen: int) -> Any:
        started = isinstance(action, StartStage) and action.stage.index == 1
        saved = isinstance(action, SaveCheckpoint) and action.index == 1
        return "worker_lost" if (saved or started) and seen <= 2 else None

    lanes, told = run(tmp_path, tiny(), FakeExecutor(fail))
    assert lanes["finetune-s0"].status == "failed"
    assert told["finetune-s0"]["failures"] == 4


def test_losses_of_a_worker_that_is_let_go_count_anew(tmp_path: Path) -> None:
    def fail(action: Action, seen: int) -> Any:
        saved = isinstance(action, SaveCheckpoint) and action.index == 4
        return "worker_lost" if (saved or isinstance(action, CloseLane)) and seen <= 3 else None

    lanes, told = run(tmp_path, tiny(), FakeExecutor(fail))
    assert lanes["finetune-s0"].status == "done"
    assert told["finetune-s0"]["failures"] == 6


def test_nothing_to_skip_to_before_the_first_checkpoint(tmp_path: Path) -> None:
    def fail(action: Action, seen: int) -> Any:
        return "stage_error" if isinstance(action, OpenLane) else None

    config = tiny(failures={"stage_error": {"retries": 1, "then": "skip_stage"}})
    lanes, told = run(tmp_path, config, FakeExecutor(fail))
    assert lanes["finetune-s0"].status == "failed"
    assert told["finetune-s0"]["failures"] == 2


def test_a_lane_that_opens_no_more_is_not_skipped_for_ever(tmp_path: Path) -> None:
    def fail(action: Action, seen: int) -> Any:
        if isinstance(action, OpenLane) and action.checkpoint is not None:
            return "stage_error"
        lost = isinstance(action, StartStage) and action.stage.index == 1
        return "worker_lost" if lost else None

    config = tiny(failures={"stage_error": {"retries": 1, "then": "skip_stage"}})
    lanes, told = run(tmp_path, config, FakeExecutor(fail))
    assert lanes["finetune-s0"].status == "failed"
    assert told["finetune-s0"]["failures"] == 3


def test_a_skipped_stage_leaves_the_next_its_whole_budget(tmp_path: Path) -> None:
    def fail(action: Action, seen: int) -> Any:
        bad = isinstance(action, StartStage) and action.stage.index in (1, 2)
        return "stage_error" if bad and seen <= 2 else None

    config = tiny(failures={"stage_error": {"retries": 1, "then": "skip_stage"}})
    lanes, told = run(tmp_path, config, FakeExecutor(fail))
    assert lanes["finetune-s0"].status == "done"
    saved = [stage["checkpoint"] is not None for stage in told["finetune-s0"]["stages"]]
    assert saved == [True, True, True]
    assert told["finetune-s0"]["failures"] == 4


def test_failed_evaluations_are_counted_by_row(tmp_path: Path) -> None:
    def fail(action: Action, seen: int) -> Any:
        return "evaluation" if isinstance(action, Evaluate) and seen <= 2 else None

    lanes, told = run(tmp_path, tiny(), FakeExecutor(fail))
    assert lanes["finetune-s0"].status == "done"
    assert told["finetune-s0"]["failures"] == 12


TWO = {"lanes": [{"method": "finetune", "seeds": [0, 1]}]}


def ends(folder: Path, key: str) -> list[str]:
    """What a tracker was told about how a run, lane or stage ended."""
    projection = Projection()
    found = [w for record, _ in read(folder / "journal.jsonl") for w in projection.add(record)]
    return [w.status for w in found if isinstance(w, CloseRun) and w.key == key]


def test_a_lane_that_fails_while_it_trains_makes_room(tmp_path: Path) -> None:
    def fail(action: Action, seen: int) -> Any:
        row = isinstance(action, Evaluate) and action.spec.lane == "finetune-s0"
        return "evaluation" if row and action.index == 1 else None

    config = tiny(**TWO)
    lanes, told = run(tmp_path, config, FakeExecutor(fail, room=1))
    assert [lane.status for lane in lanes.values()] == ["failed", "done"]
    assert len(told["finetune-s0"]["stages"]) < 5, "it failed in the middle"
    assert ends(tmp_path, "run/finetune-s0") == ["FAILED"]
    lanes, told = run(tmp_path, config, FakeExecutor(room=1), resume=True)
    assert {lane["status"] for lane in told.values()} == {"done"}
    assert ends(tmp_path, "run/finetune-s0") == ["FAILED", "FINISHED"]


def test_a_lane_whose_last_row_fails_is_not_done(tmp_path: Path) -> None:
    """It fails while its worker is let go, whose answer then comes too late."""

    def fail(action: Action, seen: int) -> Any:
        return "evaluation" if isinstance(action, Evaluate) and action.index == 4 else None

    config = tiny(**TWO, failures={"evaluation": {"retries": 0, "then": "fail_lane"}})
    lanes, told = run(tmp_path, config, FakeExecutor(fail))
    assert {lane.status for lane in lanes.values()} == {"failed"}
    assert ends(tmp_path, "run/finetune-s0") == ["FAILED"]
    journal = [record for record, _ in read(tmp_path / "journal.jsonl")]
    resumed = RunHistory()
    for record in (*journal, Record(event=takeover(2, 0))):
        resumed.add(record)
    assert {lane["status"] for lane in resumed.json()["lanes"]} == {"waiting"}
    lanes, told = run(tmp_path, config, FakeExecutor(), resume=True)
    assert {lane["status"] for lane in told.values()} == {"done"}


def test_a_closed_lane_whose_row_fails_is_opened_again_by_a_resume(tmp_path: Path) -> None:
    def fail(action: Action, seen: int) -> Any:
        return "evaluation" if isinstance(action, Evaluate) and action.index == 4 else None

    run(tmp_path, tiny(), FakeExecutor(fail))
    assert ends(tmp_path, "run/finetune-s0") == ["FINISHED", "FAILED"]
    journal = [record for record, _ in read(tmp_path / "journal.jsonl")]
    (lane,) = report([*journal, Record(event=takeover(2, 0))])["lanes"]
    assert lane["status"] == "waiting"


@pytest.mark.parametrize("revision", [7, -1])
def test_a_worker_whose_answer_contradicts_makes_room(tmp_path: Path, revision: int) -> None:
    class Diverging(FakeExecutor):
        def counted(self, action: RunInterval) -> Json:
            return {"revision": revision} if action.lane == "finetune-s0" else {}

    failures = {"diverged": {"retries": 1, "then": "fail_lane"}}
    lanes, told = run(tmp_path, tiny(**TWO, failures=failures), Diverging(room=1))
    assert [lane.status for lane in lanes.values()] == ["failed", "done"]
    assert told["finetune-s0"]["failures"] == 2
    assert told["finetune-s0"]["last_failure"]["kind"] == "diverged"


def test_a_worker_that_cannot_be_let_go_is_not_opened_for_ever(tmp_path: Path) -> None:
    """Everything is learnt: nothing is left to skip, or to open another worker for."""

    def fail(action: Action, seen: int) -> Any:
        return "stage_error" if isinstance(action, CloseLane) else None

    config = tiny(failures={"stage_error": {"retries": 1, "then": "skip_stage"}})
    lanes, told = run(tmp_path, config, FakeExecutor(fail))
    assert lanes["finetune-s0"].status == "done"
    assert told["finetune-s0"]["failures"] == 2


def test_a_failure_tells_at_which_stage_the_lane_stood(tmp_path: Path) -> None:
    def fail(action: Action, seen: int) -> Any:
        third = isinstance(action, RunInterval) and action.seq == 11
        return "stage_error" if third else None

    _, told = run(tmp_path, tiny(), FakeExecutor(fail))
    assert [stage["status"] for stage in told["finetune-s0"]["stages"]][-1] == "failed"
    last = told["finetune-s0"]["stages"][-1]["index"]
    assert told["finetune-s0"]["last_failure"]["index"] == last == 2
