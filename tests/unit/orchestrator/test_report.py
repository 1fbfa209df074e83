"""The run report: idempotent folding, failures, gaps in the matrix, statuses."""

from dataclasses import replace

import pytest

from orchestrator.core.events import (
    EditApplied,
    EvaluationDone,
    Event,
    Record,
    RunFinished,
    RunInterrupted,
    RunResumed,
    WorkFailed,
)
from orchestrator.report.history import RunFold, report
from orchestrator.report.metrics import summarise
from tests.journals import RUN_ID, START, TASKS, LaneStory, score, story
from workers.contract import StageSpec
from workers.edits import RefreshMask


def resumed(at: float) -> Record:
    return Record(event=RunResumed(at=at, code_version="abc1234", cpus=2, gpus=0))


def lane(told: dict, name: str = "replay-s0") -> dict:
    return next(item for item in told["lanes"] if item["lane"] == name)


def test_a_finished_run() -> None:
    told = report(story(), 77)
    first = lane(told)
    matrix = [[score("replay", 0, i, j) for j in range(3)] for i in range(3)]
    assert (told["run_id"], told["status"], told["journal_offset_tracked"]) == (RUN_ID, "done", 77)
    assert told["events"] == len(story())
    assert (first["method"], first["seed"], first["status"]) == ("replay", 0, "done")
    assert first["tasks"] == list(TASKS)
    assert first["matrix"] == matrix
    assert first["initial"] == [0.1, 0.1, 0.1]
    assert first["metrics"] == summarise(matrix, [0.1] * 3)
    assert [stage["intervals"] for stage in first["stages"]] == [2, 2, 2]
    assert [stage["status"] for stage in first["stages"]] == ["done"] * 3


def test_stages_name_their_parents_and_checkpoints() -> None:
    stages = lane(report(story()))["stages"]
    assert [stage["parent"] for stage in stages] == [None, stages[0]["id"], stages[1]["id"]]
    assert [stage["checkpoint"]["uri"] for stage in stages] == [
        f"file:///ckpt/replay-s0/{index}" for index in range(3)
    ]


def test_a_worker_loss_changes_nothing_but_the_counts() -> None:
    lost, calm = lane(report(story(lose_at=1))), lane(report(story(lose_at=None)))
    assert (lost.pop("attempts"), lost.pop("failures")) == (2, 1)
    assert (calm.pop("attempts"), calm.pop("failures")) == (1, 0)
    assert lost.pop("last_failure") == {"kind": "worker_lost", "index": 1, "message": "x"}
    assert calm.pop("last_failure") is None
    assert lost == calm


def test_an_edit_applied_again_is_one_edit() -> None:
    (edit,) = lane(report(story(lose_at=1)))["stages"][1]["edits"]
    assert edit["cause"] == {"policy": "plateau", "trigger": "slope", "figures": {"slope": -0.1}}
    assert edit["before"]["layers"]["body"] == {"experts": 1, "widths": (8,), "parameters": 100}
    assert edit["after"]["layers"]["body"]["widths"] == (8, 8)
    assert edit["after"]["parameters"] - edit["before"]["parameters"] == 100
    assert edit["probe_change"] == 0.0
    assert len(edit["fingerprint"]) == 16


def test_add_tells_repeats_from_news() -> None:
    fold = RunFold()
    news = [fold.add(record) for record in story(lose_at=1)]
    assert news.count(False) == 3  # start, interval and edit of the lost stage
    assert fold.json() == {**report(story(lose_at=1))}


def test_what_a_lost_worker_still_answers_does_not_count() -> None:
    records = story(lanes=(("replay", 0),), lose_at=1)
    at = next(i for i, r in enumerate(records) if isinstance(r.event, WorkFailed))
    late = next(r for r in records[at:] if r.event.type == "IntervalDone" and r.event.seq > 6)
    ghost = replace(late, event=replace(late.event, attempt=1))
    fold = RunFold()
    for record in records[: at + 1]:
        fold.add(record)
    assert fold.add(ghost) is False
    assert fold.lanes["replay-s0"].stages[1].intervals == 1


@pytest.mark.parametrize("cut", range(1, len(story())))
def test_every_prefix_has_a_report_whose_metrics_are_those_of_its_rows(cut: int) -> None:
    told = report(story()[:cut])
    for item in told["lanes"]:
        assert item["metrics"] == summarise(item["matrix"], item["initial"])
        assert item["status"] in ("waiting", "running", "done")


def test_a_row_that_arrives_late_leaves_a_gap_and_counts_when_it_is_there() -> None:
    records = story(lanes=(("replay", 0),), lose_at=None)
    late = next(r for r in records if isinstance(r.event, EvaluationDone) and r.event.index == 0)
    rest = [record for record in records[:-1] if record is not late]
    gap = lane(report(rest))
    assert gap["matrix"][0] == [None, None, None]
    assert gap["metrics"] == {}
    assert lane(report([*rest, late]))["metrics"] == lane(report(records))["metrics"]


def test_a_stage_given_up_leaves_the_model_and_so_the_row_as_they_were() -> None:
    records = [
        record
        for record in story(lanes=(("replay", 0),), lose_at=None)
        if record.event.type not in ("CheckpointSaved", "EvaluationDone") or record.event.index != 1
    ]
    told = lane(report(records))
    assert [stage["status"] for stage in told["stages"]] == ["done", "skipped", "done"]
    assert told["matrix"][1] == told["matrix"][0]
    assert "forgetting.max" in told["metrics"]


def masked(after: LaneStory, spec: StageSpec, version: int, share: float) -> EditApplied:
    """The stage's grown model, and masks on top of it, as one imagined edit."""
    grown = after.grown(spec, after=1)
    mask = RefreshMask(
        id=f"{spec.id}-e2",
        stage=spec.id,
        after_interval=1,
        version=version,
        domains=("clothes",),
        masks={"body": [[1, 1]]},
        usage={"body": [[share, 1 - share]]},
        seed=1,
        cause=grown.edit.cause,
    )
    return replace(grown, edit=mask, report=replace(grown.report, edit=mask.id))


def test_edits_of_a_stage_given_up_are_not_in_the_model() -> None:
    """Stage 1 grows and masks and is given up; stage 2 begins with one expert and version 1."""
    records = story(lanes=(("replay", 0),), lose_at=None)
    told = LaneStory("replay", 0, TASKS, START + 100)
    fold = RunFold()
    for record in records:
        if record.event.type == "StageStarted" and record.event.stage.index == 1:
            break
        fold.add(record)
    told.seq = fold.lanes["replay-s0"].answered
    events: list[Event] = []
    for index, share in ((1, 0.25), (2, 0.75)):
        spec = told.spec(index)
        events += [told.started(spec), told.interval(spec, 1), masked(told, spec, 1, share)]
        told.experts = 1
    for event in events[:-1]:
        fold.add(Record(event=event))
    first = fold.lanes["replay-s0"]
    assert first.skipped(1)
    assert first.births == {"body": [-1]}
    assert first.mask(1) is first.mask(2) is None
    fold.add(Record(event=events[-1]))
    assert first.births == {"body": [-1, 2]}
    mask = first.mask(2)
    assert mask is not None
    assert mask.usage == {"body": [[0.75, 0.25]]}
    assert first.mask(1) is None
    assert len(fold.json()["lanes"][0]["stages"][1]["edits"]) == 1, "it did happen"


def test_interrupted_and_resumed() -> None:
    cut = story()[:12]
    stopped = [*cut, Record(event=RunInterrupted(at=START + 50, reason="SIGTERM"))]
    told = report(stopped)
    assert told["status"] == lane(told)["status"] == "interrupted"
    again = report([*stopped, resumed(START + 60)])
    assert (again["status"], lane(again)["status"]) == ("running", "waiting")


def test_a_lane_fails_when_its_budget_is_spent() -> None:
    fold = RunFold()
    for record in story(lanes=(("replay", 0),), lose_at=None)[:6]:
        fold.add(record)
    statuses = []
    for attempt in range(1, 5):
        fold.lanes["replay-s0"].attempt = attempt
        failure = WorkFailed(
            at=START, lane="replay-s0", attempt=attempt, kind="worker_lost", index=0, message="x"
        )
        fold.add(Record(event=failure))
        statuses.append(lane(fold.json())["status"])
    assert statuses == ["waiting", "waiting", "waiting", "failed"]
    fold.add(Record(event=RunFinished(at=START, status="failed")))
    assert fold.json()["status"] == "failed"
    fold.add(resumed(START))
    assert lane(fold.json())["status"] == "waiting"
