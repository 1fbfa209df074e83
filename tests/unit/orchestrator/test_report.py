"""The run report: what repeats and what is new, failures, gaps in the matrix, statuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.beginning import begin, joined
from orchestrator.core.actions import Action, RunInterval
from orchestrator.core.events import (
    EvaluationDone,
    RunFinished,
    RunInterrupted,
    RunResumed,
    WorkFailed,
)
from orchestrator.core.journal import JOURNAL_FILE, Journal, read
from orchestrator.core.records import Record
from orchestrator.driver import Driver
from orchestrator.report.history import RunHistory, report
from orchestrator.report.metrics import summarise
from tests.fakes import FakeExecutor, tiny
from tests.journals import RUN_ID, START, TASKS, score, story


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
    before = {"experts": 1, "widths": (8,), "parameters": 100, "removed": ()}
    assert edit["before"]["layers"]["body"] == before
    assert edit["after"]["layers"]["body"]["widths"] == (8, 8)
    assert edit["after"]["parameters"] - edit["before"]["parameters"] == 100
    assert edit["probe_change"] == 0.0
    assert len(edit["fingerprint"]) == 16


def test_add_tells_repeats_from_news() -> None:
    history = RunHistory()
    news = [history.add(record) for record in story(lose_at=1)]
    assert news.count(False) == 4  # the cluster; start, interval and edit of the lost stage
    assert history.json() == {**report(story(lose_at=1))}


def test_what_a_lost_worker_still_answers_does_not_count() -> None:
    records = story(lanes=(("replay", 0),), lose_at=1)
    at = next(i for i, r in enumerate(records) if isinstance(r.event, WorkFailed))
    late = next(r for r in records[at:] if r.event.type == "IntervalDone" and r.event.seq > 6)
    ghost = replace(late, event=replace(late.event, attempt=1))
    history = RunHistory()
    for record in records[: at + 1]:
        history.add(record)
    assert history.add(ghost) is False
    assert history.lanes["replay-s0"].stages[1].intervals == 1


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


class Counting(FakeExecutor):
    """A cluster whose workers count tokens of one domain by expert; one stage is given up."""

    def __init__(self) -> None:
        super().__init__(
            lambda action, seen: "stage_error" if third(action) and seen == 2 else None
        )

    def counted(self, action: RunInterval) -> dict[str, Any]:
        rows = [9, 1] if self.seen["RunInterval/finetune-s0/1"] == 2 else [3, 7]
        return {"counts": {"layer": {"turned": rows}}, "tokens": {"turned": 10}}


def third(action: Action) -> bool:
    return isinstance(action, RunInterval) and action.n == 3


def given_up(folder: Path) -> list[Record]:
    """Stage 1 of three grows and masks and is given up; stage 2 begins with one expert again."""
    names = ("turned", "mirrored", "inverted")
    config = tiny(
        stream={
            "kind": "domains",
            "base": [],
            "order": "sequential",
            "domains": [{"name": name, "rotate": 9.0 * i} for i, name in enumerate(names)],
        },
        model={"head": {"kind": "moe", "hidden": [16], "layer": {"selector": "topk"}}},
        training={"intervals": 3},
        policies={"growth": "periodic", "masks": {"kind": "usage_masks", "from_stage": 1}},
        failures={"stage_error": {"retries": 0, "then": "skip_stage"}},
    )
    journal = Journal(folder / JOURNAL_FILE)
    Driver(config, journal, Counting()).run(begin(config, "run"), joined(2, 0))
    journal.close()
    return [record for record, _ in read(journal.path)]


def test_a_stage_given_up_leaves_the_model_and_so_the_row_as_they_were(tmp_path: Path) -> None:
    (told,) = report(given_up(tmp_path))["lanes"]
    assert [stage["status"] for stage in told["stages"]] == ["done", "skipped", "done"]
    assert told["matrix"][1] == told["matrix"][0]
    assert "forgetting.max" in told["metrics"]


def test_edits_of_a_stage_given_up_are_not_in_the_model(tmp_path: Path) -> None:
    history = RunHistory()
    for record in given_up(tmp_path):
        history.add(record)
    (first,) = history.lanes.values()
    assert first.skipped(1)
    assert first.births == {"layer": [-1, 2]}
    assert first.mask(1) is None
    mask = first.mask(2)
    assert mask is not None
    assert mask.version == 2, "versions 1 and 2 of the stage given up do not count"
    assert mask.usage["layer"][0] == [0.3, 0.7]
    kinds = [edit["kind"] for edit in history.json()["lanes"][0]["stages"][1]["edits"]]
    assert kinds == ["grow", "refresh_mask", "refresh_mask"], "it did happen"
    state = history.state.lanes["finetune-s0"]
    assert (state.model.experts, state.model.revision) == (2, 3)


def test_interrupted_and_resumed() -> None:
    cut = story()[:12]
    stopped = [*cut, Record(event=RunInterrupted(at=START + 50, reason="SIGTERM"))]
    told = report(stopped)
    assert told["status"] == lane(told)["status"] == "interrupted"
    again = report([*stopped, resumed(START + 60)])
    assert (again["status"], lane(again)["status"]) == ("running", "waiting")


def test_a_lane_fails_when_its_budget_is_spent() -> None:
    history = RunHistory()
    for record in story(lanes=(("replay", 0),), lose_at=None)[:6]:
        history.add(record)
    statuses = []
    for _ in range(4):
        attempt = history.state.lanes["replay-s0"].attempt
        failure = WorkFailed(
            at=START, lane="replay-s0", attempt=attempt, kind="worker_lost", index=0, message="x"
        )
        assert history.add(Record(event=failure))
        statuses.append(lane(history.json())["status"])
    assert statuses == ["waiting", "waiting", "waiting", "failed"]
    history.add(Record(event=RunFinished(at=START, status="failed")))
    assert history.json()["status"] == "failed"
    history.add(resumed(START))
    assert lane(history.json())["status"] == "waiting"
