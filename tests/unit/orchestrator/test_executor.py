"""The executor's bookkeeping of workers, evaluators and answers, on a cluster that does nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.cluster.actors import LaneWorker
from orchestrator.cluster.calls import CallFailed
from orchestrator.cluster.executor import WorkerExecutor
from orchestrator.config.run import Resources
from orchestrator.core.actions import CloseLane, DropLane, Evaluate, OpenLane, RunInterval
from orchestrator.core.events import LaneClosed, WorkFailed
from workers.contract import CheckpointRef, LaneSpec

LANES = ("a", "b", "c")


@dataclass
class Idle:
    """Keeps what it is asked; the test says what comes back, and when."""

    placed: list[type] = field(default_factory=list)
    called: list[tuple[Any, str]] = field(default_factory=list)
    answers: dict[int, Any] = field(default_factory=dict)
    """Number of a call -> what it answers, or the exception that it raises."""

    own_address = staticmethod(lambda: "127.0.0.1")

    def size(self) -> tuple[float, float]:
        return 4.0, 0.0

    def place(self, shell: type, arguments: Sequence[Any], options: Mapping[str, Any]) -> int:
        self.placed.append(shell)
        return len(self.placed)

    def call(self, worker: Any, method: str, *arguments: Any) -> int:
        self.called.append((worker, method))
        return len(self.called) - 1

    def wait(self, calls: list[Any], timeout: float) -> list[Any]:
        return [call for call in calls if call in self.answers]

    def answer(self, call: int) -> Any:
        answer = self.answers.pop(call)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, worker: Any) -> None:
        pass


def lane(name: str) -> LaneSpec:
    return LaneSpec(lane=name, trainer="supervised", method="finetune", seed=0, settings={})


def executor(folder: Path) -> tuple[WorkerExecutor, Idle]:
    cluster = Idle()
    resources = {name: Resources(cpus=0.0) for name in LANES}
    made = WorkerExecutor(folder, resources, cluster)  # type: ignore[arg-type]
    made.wait(0.0)  # the cluster's size is told first
    return made, cluster


def open_lane(made: WorkerExecutor, name: str) -> Any:
    """Its worker."""
    made.perform(OpenLane(spec=lane(name), attempt=0, checkpoint=None))
    return made.workers[name][0]


def test_an_evaluator_that_died_is_replaced(tmp_path: Path) -> None:
    made, cluster = executor(tmp_path)
    checkpoint = CheckpointRef(uri=str(tmp_path / "c"), digest="d", seq=1, stage="s", bytes=1)
    asked = Evaluate(spec=lane("a"), index=0, checkpoint=checkpoint, tasks=())
    made.perform(asked)
    cluster.answers[0] = CallFailed("worker_lost", "killed")
    (event,) = made.wait(0.0)
    assert isinstance(event, WorkFailed)
    assert event.kind == "evaluation"
    made.perform(asked)
    assert cluster.called[0][0] != cluster.called[1][0]
    cluster.answers[1] = CallFailed("stage_error", "its own mistake")
    made.wait(0.0)
    made.perform(asked)
    assert cluster.called[1][0] == cluster.called[2][0], "one that lives is kept"


def test_answers_of_a_lane_given_up_are_not_told(tmp_path: Path) -> None:
    made, cluster = executor(tmp_path)
    open_lane(made, "a")
    made.perform(RunInterval(lane="a", attempt=0, seq=1, n=1))
    made.perform(DropLane(lane="a"))
    cluster.answers = dict.fromkeys(range(len(cluster.called)), CallFailed("worker_lost", "gone"))
    assert made.wait(0.0) == []


def test_a_free_worker_serves_one_lane(tmp_path: Path) -> None:
    made, cluster = executor(tmp_path)
    first = open_lane(made, "a")
    made.perform(CloseLane(lane="a", attempt=0))
    cluster.answers[len(cluster.called) - 1] = None
    (event,) = made.wait(0.0)
    assert isinstance(event, LaneClosed)
    assert open_lane(made, "b") == first, "it spares the start of a process"
    assert open_lane(made, "c") != first
    assert cluster.placed.count(LaneWorker) == 2


class Counting:
    """A trainer that counts its intervals."""

    intervals = 0

    def run_interval(self, n: int, revision: int) -> int:
        self.intervals += 1
        return self.intervals


def test_a_command_that_comes_twice_is_executed_once() -> None:
    worker, trainer = LaneWorker("supervised"), Counting()
    worker.trainer = trainer  # type: ignore[assignment]
    command = RunInterval(lane="a", attempt=0, seq=5, n=1)
    assert [worker.execute(command, "") for _ in range(2)] == [1, 1]
    assert worker.execute(RunInterval(lane="a", attempt=0, seq=6, n=2), "") == 2
