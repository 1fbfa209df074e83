"""Failures: what the controller makes of them, the report tells of the same journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.config import RunConfig
from orchestrator.controller import Controller, fold
from orchestrator.driver import Driver, begin
from orchestrator.events import Action, CloseLane, Evaluate, OpenLane, SaveCheckpoint, StartStage
from orchestrator.journal import Journal, read
from orchestrator.report import report
from orchestrator.state import LaneState
from tests.fakes import FakeExecutor, tiny
from workers.contract import Json


def run(
    folder: Path, config: RunConfig, executor: FakeExecutor
) -> tuple[dict[str, LaneState], dict[str, Json]]:
    """The lanes of one whole run: what the controller says, and what the report says."""
    journal = Journal(folder / "journal.jsonl")
    driver = Driver(config, journal, executor)
    driver.run(begin(config, "run", 2, 0))
    journal.close()
    records = [record for record, _ in read(journal.path)]
    assert fold(Controller(config), records)[0] == driver.state
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
