"""Stories of whole runs against a scripted cluster: what is issued, what is never issued twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.beginning import begin, joined, takeover
from orchestrator.core.actions import (
    ApplyEdit,
    Evaluate,
    OpenLane,
    RunInterval,
    SaveCheckpoint,
    StartStage,
)
from orchestrator.core.controller import Recorded, decide, fold
from orchestrator.core.events import EditApplied, RunFinished, RunStarted, WorkFailed
from orchestrator.core.journal import Journal, read
from orchestrator.core.records import Record
from orchestrator.core.state import RunState
from orchestrator.driver import Driver
from orchestrator.report.history import report
from orchestrator.report.results import print_report
from tests.fakes import FakeExecutor, tiny

GROWING = {"policies": {"growth": "periodic"}}


def start(path: Path, config, executor, first: str = "begin") -> Driver:  # type: ignore[no-untyped-def]
    driver = Driver(config, Journal(path), executor)
    events = (begin(config, "run"), joined(2, 0)) if first == "begin" else (takeover(2, 0),)
    driver.run(*events)
    driver.journal.close()
    return driver


def records(path: Path):  # type: ignore[no-untyped-def]
    return [record for record, _ in read(path)]


def actions(executor: FakeExecutor, kind: type) -> list:  # type: ignore[type-arg]
    return [action for action in executor.performed if isinstance(action, kind)]


def test_undisturbed_run_issues_everything_once(tmp_path: Path) -> None:
    executor = FakeExecutor()
    driver = start(tmp_path / "journal.jsonl", tiny(**GROWING), executor)
    assert driver.state.status == "done"
    assert len(actions(executor, StartStage)) == 5
    assert len(actions(executor, RunInterval)) == 10
    assert [edit.edit.experts for edit in actions(executor, ApplyEdit)] == [2, 3, 4, 5]
    assert [save.final for save in actions(executor, SaveCheckpoint)] == [True] * 6
    assert sorted(item.index for item in actions(executor, Evaluate)) == [-1, 0, 1, 2, 3, 4]


def test_stage_ids_chain_through_their_parents(tmp_path: Path) -> None:
    executor = FakeExecutor()
    start(tmp_path / "journal.jsonl", tiny(), executor)
    stages = [action.stage for action in actions(executor, StartStage)]
    assert [stage.parent for stage in stages] == [None, *(stage.id for stage in stages[:-1])]
    assert len({stage.id for stage in stages}) == 5


def test_evaluation_runs_beside_the_next_stage(tmp_path: Path) -> None:
    executor = FakeExecutor()
    start(tmp_path / "journal.jsonl", tiny(), executor)
    order = [type(action).__name__ for action in executor.performed]
    first = order.index("Evaluate")
    assert order[first + 1] == "StartStage", "training goes on without waiting for the scores"


@pytest.mark.parametrize("seen_seq", range(1, 26))
def test_driver_killed_after_any_record_resumes_to_the_same_commands(
    tmp_path: Path, seen_seq: int
) -> None:
    """Cut the journal after any record: the resumed run ends with the same edits, each once."""
    config = tiny(**GROWING, checkpoint_every=1)
    whole = FakeExecutor()
    start(tmp_path / "whole.jsonl", config, whole)
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(b"".join(lines[:seen_seq]) + lines[seen_seq][:7])  # and a torn line
    executor = FakeExecutor()
    driver = start(cut, config, executor, first="takeover")
    assert driver.state.status == "done"
    first_edits: dict[str, int] = {}
    for record in records(cut):
        for edit in record.edits:
            first_edits[edit.id] = first_edits.get(edit.id, 0) + 1
    assert first_edits == {
        edit.id: 1 for record in records(tmp_path / "whole.jsonl") for edit in record.edits
    }, "an edit is decided once, whatever happens"
    lane = driver.state.lanes["finetune-s0"]
    undisturbed = fold(records(tmp_path / "whole.jsonl"))[0].lanes["finetune-s0"]
    assert (lane.model, lane.next_seq, lane.parent) == (
        undisturbed.model,
        undisturbed.next_seq,
        undisturbed.parent,
    )


def test_fold_of_the_journal_is_the_live_state(tmp_path: Path) -> None:
    config = tiny(**GROWING)
    driver = start(tmp_path / "journal.jsonl", config, FakeExecutor())
    folded, _ = fold(records(tmp_path / "journal.jsonl"))
    assert folded == driver.state


def test_lost_worker_is_replaced_and_its_commands_issued_again(tmp_path: Path) -> None:
    config = tiny(**GROWING)

    def fail(action, seen):  # type: ignore[no-untyped-def]
        lost = isinstance(action, RunInterval) and action.n == 2 and seen == 2
        return "worker_lost" if lost else None

    executor = FakeExecutor(fail)
    driver = start(tmp_path / "journal.jsonl", config, executor)
    assert driver.state.status == "done"
    opened = actions(executor, OpenLane)
    assert [action.attempt for action in opened] == [1, 2]
    assert opened[1].checkpoint is not None
    assert opened[1].checkpoint.stage == actions(executor, StartStage)[0].stage.id
    grown = [action.edit.experts for action in actions(executor, ApplyEdit)]
    assert grown == [2, 2, 3, 4, 5], "the edit after the checkpoint is applied to the new worker"
    reports = [r.event for r in records(tmp_path / "journal.jsonl")]
    prints = [e.report.fingerprint for e in reports if isinstance(e, EditApplied)]
    assert prints[0] == prints[1]


def test_budget_spent_fails_the_lane_and_the_others_go_on(tmp_path: Path) -> None:
    config = tiny(lanes=[{"method": "finetune", "seeds": [0, 1]}])

    def fail(action, seen):  # type: ignore[no-untyped-def]
        bad = isinstance(action, StartStage) and action.lane == "finetune-s0"
        return "stage_error" if bad else None

    driver = start(tmp_path / "journal.jsonl", config, FakeExecutor(fail))
    assert driver.state.status == "failed"
    assert driver.state.lanes["finetune-s0"].status == "failed"
    assert driver.state.lanes["finetune-s1"].status == "done"


def test_skipped_stage_continues_from_the_last_complete_model(tmp_path: Path) -> None:
    failures = {"stage_error": {"retries": 1, "then": "skip_stage"}}
    config = tiny(**GROWING, failures=failures)

    def fail(action, seen):  # type: ignore[no-untyped-def]
        bad = isinstance(action, StartStage) and action.stage.index == 2
        return "stage_error" if bad else None

    executor = FakeExecutor(fail)
    driver = start(tmp_path / "journal.jsonl", config, executor)
    assert driver.state.status == "done"
    started = [action.stage for action in actions(executor, StartStage)]
    assert [stage.index for stage in started] == [0, 1, 2, 2, 3, 4]
    assert started[4].parent == started[1].id
    assert sorted(item.index for item in actions(executor, Evaluate)) == [-1, 0, 1, 3, 4]
    assert [action.edit.experts for action in actions(executor, ApplyEdit)] == [2, 3, 4]


def test_diverging_rerun_of_an_edit_aborts_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(**GROWING)

    class Diverging(FakeExecutor):
        def _command(self, action, at):  # type: ignore[no-untyped-def]
            event = super()._command(action, at)
            if (
                isinstance(event, EditApplied)
                and self.seen[f"ApplyEdit/{event.lane}/{event.edit.id}"] > 1
            ):
                return replace(event, report=replace(event.report, fingerprint="other"))
            return event

    def fail(action, seen):  # type: ignore[no-untyped-def]
        lost = isinstance(action, RunInterval) and action.n == 1 and seen == 2
        return "worker_lost" if lost else None

    path = tmp_path / "journal.jsonl"
    driver = start(path, config, Diverging(fail))
    assert driver.state.status == "failed"
    events = [record.event for record in records(path)]
    assert [type(event) for event in events[-3:]] == [EditApplied, WorkFailed, RunFinished]
    (told,) = (e for e in events if isinstance(e, WorkFailed) and e.kind == "diverged")
    assert "fingerprint other, before it was fp-" in told.message
    (lane,) = report(records(path))["lanes"]
    assert lane["last_failure"] == {"kind": "diverged", "index": 1, "message": told.message}
    assert (lane["status"], lane["failures"]) == ("failed", 2)
    print_report(report(records(path)))
    assert "finetune-s0 failed: diverged: edit" in capsys.readouterr().out
    assert fold(records(path))[0] == driver.state
    old = [record for record in records(path) if record.event != told]
    assert fold(old)[0] == driver.state, "as older journals have it"


def test_failed_evaluation_is_retried_and_its_row_asked_for_again_on_resume(
    tmp_path: Path,
) -> None:
    config = tiny()

    def fail(action, seen):  # type: ignore[no-untyped-def]
        return "evaluation" if isinstance(action, Evaluate) and action.index == 4 else None

    executor = FakeExecutor(fail)
    driver = start(tmp_path / "journal.jsonl", config, executor)
    assert driver.state.status == "failed"
    assert [item.index for item in actions(executor, Evaluate)].count(4) == 3
    again = FakeExecutor()
    driver = start(tmp_path / "journal.jsonl", config, again, first="takeover")
    assert driver.state.status == "done"
    assert [item.index for item in actions(again, Evaluate)] == [4]
    assert not actions(again, StartStage), "no stage is learnt twice"


def test_lanes_wait_for_room_on_the_cluster(tmp_path: Path) -> None:
    config = tiny(lanes=[{"method": "finetune", "seeds": [0, 1, 2]}])
    begun, nothing = decide(RunState(), begin(config, "run"), _nobody())
    assert nothing == (), "the run is written down before anything acts"
    state, first = decide(begun, joined(2, 0), _nobody())
    assert [action.spec.lane for action in first] == ["finetune-s0", "finetune-s1"]  # type: ignore[union-attr]
    driver = start(tmp_path / "journal.jsonl", config, FakeExecutor())
    assert all(lane.status == "done" for lane in driver.state.lanes.values())
    assert state.lanes["finetune-s2"].status == "waiting"


def test_answers_of_a_given_up_worker_are_ignored(tmp_path: Path) -> None:
    config = tiny()
    begun, _ = decide(RunState(), begin(config, "run"), _nobody())
    state, _ = decide(begun, joined(2, 0), _nobody())
    executor = FakeExecutor()
    executor.perform(OpenLane(spec=config.lanes[0].spec(), attempt=7, checkpoint=None))
    after, acts = decide(state, executor.wait(0)[0], _nobody())
    assert after == state
    assert acts == ()


def test_run_of_a_finished_journal_has_nothing_to_do(tmp_path: Path) -> None:
    config = tiny()
    start(tmp_path / "journal.jsonl", config, FakeExecutor())
    events = [record.event for record in records(tmp_path / "journal.jsonl")]
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], RunFinished)
    driver = Driver(config, Journal(tmp_path / "journal.jsonl"), FakeExecutor())
    assert driver.state.status == "done"


def _nobody():  # type: ignore[no-untyped-def]
    return Recorded(Record(event=joined(2, 0)))
