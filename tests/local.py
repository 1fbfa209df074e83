"""A cluster inside the test's process: real trainers and evaluators, lost when the test says so."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from orchestrator.cluster.actors import EvaluationWorker, LaneWorker
from orchestrator.cluster.answers import ANSWER
from orchestrator.core.actions import (
    Action,
    ApplyEdit,
    CloseLane,
    DropLane,
    Evaluate,
    OpenLane,
    RunInterval,
    SaveCheckpoint,
    StartStage,
)
from orchestrator.core.events import Event, WorkFailed
from orchestrator.core.plans import FailureKind
from workers.contract import CheckpointError

SCORING: dict[FailureKind, FailureKind] = {
    "worker_lost": "evaluation",
    "checkpoint_lost": "model_lost",
}
"""What a failure is called where a model was to be scored."""


class LocalExecutor:
    """Performs every action at once, in order. ``lose`` names commands whose worker dies. As in
    processes of their own, each lane's worker draws from a random state of its own.

    ``before``: the worker dies before it executes the command; ``after``: it has executed it, but
    its answer is lost with it.
    """

    def __init__(
        self,
        folder: Path,
        lose: Callable[[Action], str | None] = lambda action: None,
    ) -> None:
        self.folder, self.lose = folder, lose
        self.workers: dict[str, LaneWorker] = {}
        self.evaluator = EvaluationWorker("supervised")
        self.queue: deque[Event] = deque()
        self.performed: list[Action] = []
        self.at = 0.0
        self.random: dict[str, torch.Tensor] = {}

    def perform(self, action: Action) -> None:
        self.at += 1.0
        self.performed.append(action)
        if isinstance(action, DropLane):
            return self._drop(action.lane)
        moment = self.lose(action)
        if moment == "before":
            return self._lost(action)
        try:
            with self._own_random(getattr(action, "lane", "")):
                answer = self._answer(action)
        except CheckpointError as error:
            return self._lost(action, "checkpoint_lost", str(error))
        if moment == "after":
            return self._lost(action)
        self.queue.append(ANSWER[type(action)](action, answer, self.at))

    def wait(self, timeout: float) -> list[Event]:
        return [self.queue.popleft()] if self.queue else []

    def close(self) -> None:
        self.queue.clear()
        self.workers.clear()

    @contextmanager
    def _own_random(self, lane: str) -> Iterator[None]:
        with torch.random.fork_rng(devices=[]):
            if lane in self.random:
                torch.set_rng_state(self.random[lane])
            yield
            self.random[lane] = torch.get_rng_state()

    def _answer(self, action: Any) -> Any:
        match action:
            case OpenLane():
                self.workers[action.spec.lane] = worker = LaneWorker("supervised")
                with self._own_random(action.spec.lane):
                    return worker.open(action.spec, action.checkpoint, taken=action.taken)
            case CloseLane():
                return self.workers.pop(action.lane).close()
            case Evaluate():
                return self.evaluator.evaluate(action.spec, action.checkpoint, action.tasks)
            case StartStage() | RunInterval() | ApplyEdit() | SaveCheckpoint():
                return self.workers[action.lane].execute(action, str(self.folder))
        raise AssertionError(action)

    def _drop(self, lane: str) -> None:
        self.workers.pop(lane, None)

    def _lost(
        self,
        action: Any,
        kind: FailureKind = "worker_lost",
        message: str = "killed by the test",
    ) -> None:
        scoring = isinstance(action, Evaluate)
        lane = action.spec.lane if scoring or isinstance(action, OpenLane) else action.lane
        if not scoring:
            self.workers.pop(lane, None)
        self.queue.append(
            WorkFailed(
                at=self.at,
                lane=lane,
                attempt=0 if scoring else action.attempt,
                kind=SCORING[kind] if scoring else kind,
                index=getattr(action, "index", -1),
                message=message,
            )
        )
