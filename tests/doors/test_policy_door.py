"""The door of policies: one with memory, one that waits for scores, through whole lanes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from orchestrator.beginning import begin, joined, takeover
from orchestrator.cluster.placement import check_resources
from orchestrator.config.file import ConfigError
from orchestrator.core.actions import ApplyEdit, Evaluate, RunInterval, SaveCheckpoint, StartStage
from orchestrator.core.controller import fold
from orchestrator.core.events import EvaluationDone, StageStarted, WorkFailed
from orchestrator.core.journal import JOURNAL_FILE, Journal, read
from orchestrator.driver import Driver
from orchestrator.policies import Policy, Proposal, View
from tests.doors.lane import run_killed, run_lane
from tests.fakes import FakeExecutor, tiny
from workers.contract import InputError, Json, LaneSettings
from workers.edits import Grow
from workers.tables import Problem


class Plateau(Policy):
    """Grows when the running mean of the loss stops falling."""

    proposes: ClassVar[tuple[str, ...]] = ("grow",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """How much the loss must fall, and how slowly the mean follows it."""

        kind: str
        least: float = 0.05
        decay: float = 0.5
        max_experts: int = 3

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """A trend needs two intervals at least."""
            if lane.intervals >= 2:
                return []
            return [Problem("least", f"{lane.intervals} interval a stage", "needs at least 2")]

    config: Config

    def propose(self, view: View, memory: Json) -> Proposal:
        if view.report is None:
            return (), memory
        loss = view.report.metrics["loss"]
        old = loss if memory is None else memory["mean"]
        mean = self.config.decay * old + (1 - self.config.decay) * loss
        told = {"mean": mean, "seen": 1 + (memory["seen"] if memory else 0)}
        room = view.model.experts < self.config.max_experts
        if memory is None or not room or old - mean > self.config.least * old:
            return (), told
        cause = view.edit(policy="plateau", trigger="flat", figures={"mean": mean, "old": old})
        return (Grow(**cause, experts=view.model.experts + 1),), told

    def final_experts(self, start: int, stages: int, steps_per_stage: int | None) -> int | None:
        return self.config.max_experts


class Judge(Policy):
    """Grows while the model before is worse than wanted: needs its scores."""

    uses_scores: ClassVar[bool] = True
    proposes: ClassVar[tuple[str, ...]] = ("grow",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """How good is good enough."""

        kind: str
        wanted: float = 0.6
        max_experts: int = 9

    config: Config

    def propose(self, view: View, memory: Json) -> Proposal:
        if view.n or not view.stage.index:
            return (), memory
        row = view.rows[view.stage.index - 1]
        score = sum(row[: view.stage.index]) / view.stage.index
        if score >= self.config.wanted:
            return (), memory
        figures = {"score": score, "rows": float(len(view.rows))}
        common = view.edit(policy="judge", trigger="score", figures=figures)
        return (Grow(**common, experts=view.model.experts + 1),), memory

    def final_experts(self, start: int, stages: int, steps_per_stage: int | None) -> int | None:
        return self.config.max_experts


PLATEAU: dict[str, Any] = {
    "stream": {"kind": "split", "dataset": "digits", "classes_per_task": 5},
    "model": {"head": {"kind": "moe", "hidden": [16]}},
    "training": {"epochs": 4, "intervals": 4, "batch": 32},
    "policies": {"plateau": {"kind": "tests.doors.test_policy_door:Plateau", "least": 0.3}},
    "lanes": [{}],
}


def test_a_policy_with_memory_decides_alike_after_kills(tmp_path: Path) -> None:
    whole, killed = run_lane(tmp_path / "a", PLATEAU), run_killed(tmp_path / "b", PLATEAU)
    assert killed.essence == whole.essence
    assert [edit["experts"] for edit in whole.edits] == [2, 3]
    memory = [record.memory["plateau"] for record in whole.records if record.memory]
    assert [told["seen"] for told in memory] == list(range(1, 9)), "stage after stage"
    assert fold(killed.records)[0].lanes["finetune-s0"].memory == {"plateau": memory[-1]}
    live = tiny(**PLATEAU).lanes[0].live_policies()["plateau"]
    assert live.proposes == ("grow",)


def test_its_config_is_asked_and_named_with_its_path() -> None:
    with pytest.raises(ConfigError, match=r"policies\.plateau\.least: 1 interval a stage"):
        tiny(**{**PLATEAU, "training": {"intervals": 1}})


class Scoring(FakeExecutor):
    """Scores on the validation parts come when asked for, or late: after everything else."""

    def __init__(self, late: bool = False, fail: Any = lambda action, seen: None) -> None:
        super().__init__(fail)
        self.late = late

    def wait(self, timeout: float) -> list[Any]:
        if self.late and self.queue and isinstance(self.queue[0], EvaluationDone):
            self.queue.rotate(-1)
        return [self._scored(event) for event in super().wait(timeout)]

    @staticmethod
    def _scored(event: Any) -> Any:
        if isinstance(event, EvaluationDone):
            scores = [0.9 - 0.2 * event.index if i <= event.index else 0.1 for i in range(5)]
            event.report.validation.extend(scores)
        return event


JUDGED = {"policies": {"judge": {"kind": "tests.doors.test_policy_door:Judge"}}}


def judged(path: Path, executor: FakeExecutor, *first: Any, **changes: Any) -> Driver:
    config = tiny(**JUDGED, **changes)
    driver = Driver(config, Journal(path), executor)
    driver.run(*(first or (begin(config, "run"), joined(2, 0))))
    driver.journal.close()
    return driver


@pytest.mark.parametrize("late", [False, True])
def test_a_stage_waits_for_the_scores_of_the_model_before(tmp_path: Path, late: bool) -> None:
    executor = Scoring(late)
    driver = judged(tmp_path / "j.jsonl", executor)
    assert driver.state.status == "done"
    order = [type(a).__name__ for a in executor.performed if isinstance(a, Evaluate | StartStage)]
    assert order == ["Evaluate", "StartStage"] * 5 + ["Evaluate"]
    records = [record for record, _ in read(tmp_path / "j.jsonl")]
    seen = [(e.cause.figures["rows"], e.experts) for r in records for e in r.edits]  # type: ignore[attr-defined]
    assert seen == [(4.0, 2), (5.0, 3)], "0.9, 0.7, then 0.5: rows -1 to index - 1"
    assert fold(records)[0] == driver.state


@pytest.mark.parametrize("kept", range(1, 30))
def test_a_lane_that_waits_is_taken_over(tmp_path: Path, kept: int) -> None:
    whole = judged(tmp_path / "whole.jsonl", Scoring())
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "cut.jsonl").write_bytes(b"".join(lines[:kept]))
    driver = judged(tmp_path / "cut.jsonl", Scoring(), takeover(2, 0))
    assert driver.state.status == "done"
    one, other = (d.state.lanes["finetune-s0"] for d in (whole, driver))
    assert (one.model, one.rows, one.memory) == (other.model, other.rows, other.memory)


def test_scores_that_nobody_gives_are_not_waited_for() -> None:
    stream = {"kind": "split", "dataset": "digits", "validation": 0.0}
    with pytest.raises(ConfigError, match=r"policies\.judge: waits for .*set stream\.validation"):
        tiny(**JUDGED, stream=stream)


def test_a_row_that_is_given_up_holds_nobody(tmp_path: Path) -> None:
    def fail(action: Any, seen: int) -> Any:
        return "evaluation" if isinstance(action, Evaluate) and action.index == 4 else None

    failures = {"evaluation": {"retries": 0, "then": "skip_stage"}}
    driver = judged(tmp_path / "j.jsonl", Scoring(fail=fail), failures=failures)
    assert driver.state.status == "done"
    assert driver.state.lanes["finetune-s0"].rows[4] == ()


def test_a_stage_given_up_gives_back_what_a_policy_remembered(tmp_path: Path) -> None:
    """The stage's intervals were never trained: what was seen of them is forgotten."""

    def fail(action: Any, seen: int) -> Any:
        saved = type(action).__name__ == "SaveCheckpoint" and action.index == 1
        return "stage_error" if saved else None

    failures = {"stage_error": {"retries": 0, "then": "skip_stage"}}
    config = tiny(policies=PLATEAU["policies"], failures=failures)
    journal = Journal(tmp_path / JOURNAL_FILE)
    driver = Driver(config, journal, FakeExecutor(fail))
    assert driver.run(begin(config, "run"), joined(2, 0)) == "done"
    journal.close()
    memory = driver.state.lanes["finetune-s0"].memory["plateau"]
    assert memory["seen"] == 8, "four stages of two intervals"


class Last(Policy):
    """Grows when a stage has ended."""

    proposes: ClassVar[tuple[str, ...]] = ("grow",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """No settings."""

        kind: str = "tests.doors.test_policy_door:Last"

    def propose(self, view: View, memory: Json) -> Proposal:
        if view.n < view.stage.intervals:
            return (), memory
        common = view.edit(policy="last", trigger="stage end")
        return (Grow(**common, experts=view.model.experts + 1),), memory

    def final_experts(self, start: int, stages: int, steps_per_stage: int | None) -> int | None:
        return start + stages


def test_edits_at_a_stages_end_are_in_its_checkpoint(tmp_path: Path) -> None:
    """Nobody was asked there before."""
    config = tiny(policies={"last": "tests.doors.test_policy_door:Last"})
    journal, executor = Journal(tmp_path / JOURNAL_FILE), FakeExecutor()
    driver = Driver(config, journal, executor)
    assert driver.run(begin(config, "run"), joined(2, 0)) == "done"
    journal.close()
    names = [type(a).__name__ for a in executor.performed if type(a) is not Evaluate]
    stage = ["StartStage", "RunInterval", "RunInterval", "ApplyEdit", "SaveCheckpoint"]
    assert names == ["OpenLane", "SaveCheckpoint", *stage * 5, "CloseLane"]
    state = driver.state.lanes["finetune-s0"]
    assert (state.model.experts, state.model.revision) == (6, 5)


class Forgetful(Policy):
    """Remembers what JSON cannot hold, or proposes it."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Which of the two."""

        kind: str = "tests.doors.test_policy_door:Forgetful"
        proposes: bool = False

    config: Config

    def propose(self, view: View, memory: Json) -> Proposal:
        if not self.config.proposes:
            return (), {"stages": {view.stage.index}}
        common = view.edit(policy="forgetful", trigger="always")
        return (Grow(**common, experts=2, initialiser={"kind": Path()}),), memory


@pytest.mark.parametrize("proposes", [False, True])
def test_what_no_journal_can_hold_is_told_before_it_is_written(
    tmp_path: Path, proposes: bool
) -> None:
    kind = "tests.doors.test_policy_door:Forgetful"
    config = tiny(policies={"odd": {"kind": kind, "proposes": proposes}})
    journal = Journal(tmp_path / JOURNAL_FILE)
    driver = Driver(config, journal, FakeExecutor())
    with pytest.raises(InputError, match=r"policy 'odd': proposed or remembers what no journal"):
        driver.run(begin(config, "run"), joined(2, 0))
    journal.close()
    records = [record for record, _ in read(tmp_path / JOURNAL_FILE)]
    assert not any(isinstance(record.event, StageStarted) for record in records)


class Tupled(Policy):
    """Remembers a tuple with a number for a key, which JSON gives back otherwise."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """No settings."""

        kind: str = "tests.doors.test_policy_door:Tupled"

    config: Config

    def propose(self, view: View, memory: Json) -> Proposal:
        assert memory in (None, {"1": [2, 3]})
        return (), {1: (2, 3)}


def test_a_policy_is_told_its_memory_as_a_fold_would(tmp_path: Path) -> None:
    config = tiny(policies={"odd": "tests.doors.test_policy_door:Tupled"})
    journal = Journal(tmp_path / JOURNAL_FILE)
    driver = Driver(config, journal, FakeExecutor())
    assert driver.run(begin(config, "run"), joined(2, 0)) == "done"
    journal.close()
    records = [record for record, _ in read(tmp_path / JOURNAL_FILE)]
    assert sum(bool(record.memory) for record in records) == 1, "written where it changes"
    assert fold(records)[0] == driver.state


class Losing(Scoring):
    """The lane's worker is gone once, before the row of stage 1 comes."""

    lost = False

    def wait(self, timeout: float) -> list[Any]:
        head = self.queue[0] if self.queue else None
        if self.lost or not isinstance(head, EvaluationDone) or head.index != 1:
            return super().wait(timeout)
        self.lost = True
        self.held.discard(head.lane)
        failure = WorkFailed(
            at=self.at, lane=head.lane, attempt=1, kind="worker_lost", index=-1, message="gone"
        )
        return [failure]


def test_a_lane_that_loses_its_worker_while_it_waits_skips_nothing(tmp_path: Path) -> None:
    """The stage that it waits after is complete: it was given the row of the one before."""
    failures = {"worker_lost": {"retries": 0, "then": "skip_stage"}}
    driver = judged(tmp_path / "j.jsonl", Losing(late=True), failures=failures)
    assert driver.state.status == "done"
    whole = judged(tmp_path / "whole.jsonl", Scoring())
    one, other = (d.state.lanes["finetune-s0"] for d in (whole, driver))
    assert (one.model, one.rows, one.steps_before) == (other.model, other.rows, other.steps_before)


ENDS: dict[str, Any] = {
    **PLATEAU,
    "checkpoint_every": 1,
    "training": {"epochs": 1, "intervals": 2, "batch": 32},
    "policies": {"last": "tests.doors.test_policy_door:Last", "growth": "periodic"},
}


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("lost", [ApplyEdit, SaveCheckpoint])
def test_a_worker_lost_between_a_stages_last_edit_and_its_checkpoint(
    tmp_path: Path, lost: type, moment: str
) -> None:
    gone: set[int] = set()

    def lose(action: Any) -> str | None:
        if type(action) is not lost or action.seq in gone:
            return None
        gone.add(action.seq)
        return moment

    whole, killed = run_lane(tmp_path / "a", ENDS), run_killed(tmp_path / "b", ENDS, lose)
    assert gone
    assert killed.essence == whole.essence
    assert [edit["revision"] for edit in whole.edits] == [1, 2, 3]
    assert [edit["after_interval"] for edit in whole.edits] == [2, 0, 2]


def test_revisions_go_on_from_the_last_complete_stage(tmp_path: Path) -> None:
    """The worker proves that no edit of the stage given up is in its model."""

    gone: list[Any] = []

    def lose(action: Any) -> str | None:
        if gone or not isinstance(action, RunInterval) or (action.n, action.revision) != (2, 2):
            return None
        gone.append(action)
        return "before"

    raw = {
        **ENDS,
        "stream": {"kind": "split", "dataset": "digits", "classes_per_task": 2},
        "model": {"head": {"kind": "moe", "hidden": [48]}},
        "checkpoint_every": 0,
        "policies": {"growth": {"kind": "periodic", "add": 1}, "last": ENDS["policies"]["last"]},
        "failures": {"worker_lost": {"retries": 0, "then": "skip_stage"}},
    }
    outcome = run_killed(tmp_path, raw, lose)
    status = [stage["status"] for stage in outcome.lane["stages"]]
    assert status == ["done", "skipped", "done", "done", "done"]
    kept = [
        edit["revision"]
        for stage in outcome.lane["stages"]
        if stage["checkpoint"]
        for edit in stage["edits"]
    ]
    assert kept == list(range(1, 8)), "the skipped stage's growth is revision 2 as well"


def test_room_is_kept_for_the_evaluator_that_a_stage_waits_for() -> None:
    """With every core held by a lane, it would have waited for room, and the lane for it."""
    config = tiny(**JUDGED, resources={"cpus": 1, "evaluator_cpus": 0.5})
    lane = config.plan().lanes[0]
    assert (lane.cpus, lane.waits_for_scores) == (1.5, True)
    assert tiny(resources={"cpus": 1, "evaluator_cpus": 0.5}).plan().lanes[0].cpus == 1
    with pytest.raises(InputError, match=r"CPU = 1; with its evaluator 1\.5 CPUs"):
        check_resources(config, [{"CPU": 1.0}])
    check_resources(config, [{"CPU": 1.0}, {"CPU": 0.5}])


@pytest.mark.parametrize("score", ["token", "gate"])
def test_esft_chooses_by_edits_that_survive_kills(tmp_path: Path, score: str) -> None:
    """What the worker measured, the masks and the phase stand in the journal: nothing is chosen
    again after a loss."""
    raw = {
        "stream": {
            "kind": "domains",
            "train_samples": 96,
            "test_samples": 40,
            "domains": [{"name": "turned", "rotate": 90.0}, {"name": "permuted", "permutation": 1}],
        },
        "model": {
            "experts": 4,
            "head": {"kind": "moe", "hidden": [24], "layer": {"selector": "topk"}},
        },
        "training": {"epochs": 2, "intervals": 3, "batch": 16},
        "policies": {"esft": {"kind": "esft", "score": score}},
        "lanes": [{}],
    }
    whole = run_lane(tmp_path / "whole", raw)
    killed = run_killed(tmp_path / "killed", raw, edits="refresh_mask")
    assert killed.essence == whole.essence
    assert [edit["kind"] for edit in whole.edits] == ["refresh_mask", "set_phase"]
    (rows,) = whole.edits[0]["masks"].values()
    assert 0 < sum(rows[0]) < 4
