"""The door of policies: one with memory, one that waits for scores, through whole lanes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from orchestrator.beginning import begin, joined, takeover
from orchestrator.config.file import ConfigError
from orchestrator.core.controller import fold
from orchestrator.core.events import Evaluate, EvaluationDone, StartStage
from orchestrator.core.journal import JOURNAL_FILE, Journal, read
from orchestrator.driver import Driver
from orchestrator.policies import Policy, Proposal, View
from tests.doors.lane import run_killed, run_lane
from tests.fakes import FakeExecutor, tiny
from workers.contract import Json, LaneSettings
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
