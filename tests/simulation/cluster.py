"""A cluster on which workers die, hang and answer late: the real worker shells, called in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.cluster.actors import EvaluationWorker, LaneWorker
from orchestrator.cluster.calls import CallFailed
from tests.simulation.chance import Violation, must
from tests.simulation.world import World
from workers.contract import CheckpointError, DivergedError, IntervalReport, LostError

FAILS = {EvaluationWorker: "evaluator_fails", LaneWorker: "code_fails"}
"""Kind of worker -> the fault that its own code raises."""
PATIENCE = 1000
"""Times that a driver may wait for nothing."""


@dataclass(eq=False, slots=True)
class Answer:
    """A call and what came of it."""

    worker: Worker
    method: str
    arguments: tuple[Any, ...]
    value: Any = None
    failure: CallFailed | None = None
    there: bool = False


@dataclass(eq=False, slots=True)
class Worker:
    """An actor: its shell, once it stands, and the calls that it has not executed."""

    shell: type
    arguments: tuple[Any, ...]
    cpus: float
    calls: deque[Answer] = field(default_factory=deque)
    held: Any = None
    hangs_until: float = 0.0
    alive: bool = True


class SimulatedCluster:
    """Executes one call at a time, of whichever worker chance says."""

    def __init__(self, world: World, nodes: int) -> None:
        self.world = world
        self.nodes = nodes
        """Of one CPU each."""
        self.back_at: list[float] = []
        """Moments at which lost nodes are back."""
        self.workers: list[Worker] = []
        self.rooms: list[Any] = []
        self.waited = 0

    def own_address(self) -> str:
        return "here"

    def size(self) -> tuple[float, float]:
        self._nodes_come_back()  # also while nothing is asked of anyone
        return float(self.nodes), 0.0

    def place(self, shell: type, arguments: Sequence[Any], options: Mapping[str, Any]) -> Worker:
        self.world.step()
        worker = Worker(shell, tuple(arguments), options["num_cpus"])
        self.workers.append(worker)
        return worker

    def call(self, worker: Worker, method: str, *arguments: Any) -> Answer:
        self.world.step()
        answer = Answer(worker, method, arguments)
        worker.calls.append(answer)
        if not worker.alive:
            self._end(worker)
        return answer

    def answer(self, call: Answer) -> Any:
        must(call.there, "an answer was taken before it was there")
        if call.failure is not None:
            raise call.failure
        return call.value

    def kill(self, worker: Worker) -> None:
        self.world.step()
        if worker.alive and worker.calls and self.world.chance.fault("outlives"):
            self._execute(worker)
        self._end(worker)

    def reserve(self, bundles: Sequence[Mapping[str, float]]) -> Any:
        self.rooms.append(object())
        return self.rooms[-1]

    def within(self, room: Any, index: int) -> Mapping[str, Any]:
        return {}

    def release(self, room: Any) -> None:
        self.rooms.remove(room)

    # ------------------------------------------------------------ time goes on

    def wait(self, calls: list[Answer], timeout: float) -> list[Answer]:
        world, chance = self.world, self.world.chance
        world.step()
        self._nodes_come_back()
        if chance.fault("node_lost"):
            self._lose_node()
        if chance.fault("node_joins"):
            self.nodes += 1
        done = [call for call in calls if call.there]
        ready = [worker for worker in self._standing() if worker.calls]
        if not done and ready and not chance.fault("late"):
            self._turn(chance.of(ready))
            done = [call for call in calls if call.there]
        if not done:
            self._nothing(timeout)
            return []
        self.waited = 0
        told = done if chance.often(0.2) else [chance.of(done)]
        return [*told, *told] if chance.fault("answered_twice") else told

    def _nothing(self, timeout: float) -> None:
        self.waited += 1
        if self.waited > PATIENCE:
            raise Violation("nothing happens any more, and the driver waits")
        self.world.passed += timeout

    def _standing(self) -> list[Worker]:
        """Workers that have room and do not hang, in the order in which they were placed."""
        room, standing = float(self.nodes), []
        for worker in self.workers:
            room -= worker.cpus
            if room >= 0 and worker.hangs_until <= self.world.passed:
                standing.append(worker)
        return standing

    def _turn(self, worker: Worker) -> None:
        """One call of the worker, or what happens instead."""
        chance, call = self.world.chance, worker.calls[0]
        if chance.fault("worker_hangs"):
            worker.hangs_until = self.world.passed + chance.between(1, 60)
        elif chance.fault("worker_dies_before"):
            self._end(worker)
        elif chance.fault("worker_dies_after"):
            self._execute(worker)
            call.there, call.failure = True, CallFailed("worker_lost", "died")
            self._end(worker)
        elif chance.fault(FAILS[worker.shell]):
            self._fail(worker, "stage_error")
        else:
            self._execute(worker)
            if isinstance(call.value, IntervalReport) and len(self._group(worker)) > 1:
                self._differ(call)

    def _group(self, worker: Worker) -> list[Worker]:
        return [one for one in self.workers if one.shell is LaneWorker and one.calls]

    def _differ(self, call: Answer) -> None:
        if self.world.chance.fault("replica_differs"):
            call.value = replace(call.value, metrics={"loss": -1.0})

    def _execute(self, worker: Worker) -> None:
        call = worker.calls.popleft()
        call.there = True
        arguments = [one.value if isinstance(one, Answer) else one for one in call.arguments]
        if call.method == "meet":
            return
        if call.method == "open":
            arguments[3] = None  # replicas train each for itself
        try:
            if worker.held is None:
                worker.held = worker.shell(*worker.arguments)
            call.value = getattr(worker.held, call.method)(*arguments)
        except DivergedError as error:
            call.failure = CallFailed("diverged", str(error))
        except CheckpointError as error:
            call.failure = CallFailed("checkpoint_lost", str(error))
        except LostError as error:
            call.failure = CallFailed("worker_lost", str(error))
        except Exception as error:
            if isinstance(error, AssertionError):
                raise
            call.failure = CallFailed("stage_error", str(error))

    def _fail(self, worker: Worker, kind: Any) -> None:
        call = worker.calls.popleft()
        call.there, call.failure = True, CallFailed(kind, "raised")

    def _end(self, worker: Worker) -> None:
        """The worker is gone: what it was asked for will not come."""
        worker.alive = False
        for call in worker.calls:
            call.there, call.failure = True, CallFailed("worker_lost", "gone")
        worker.calls.clear()
        if worker in self.workers:
            self.workers.remove(worker)

    def _lose_node(self) -> None:
        if self.nodes < 1:
            return
        self.nodes -= 1
        self.back_at.append(self.world.passed + self.world.chance.between(1, 60))
        for worker in [one for one in self.workers if self.world.chance.often(0.5)]:
            self._end(worker)

    def _nodes_come_back(self) -> None:
        back = [moment for moment in self.back_at if moment <= self.world.passed]
        self.nodes += len(back)
        self.back_at = [moment for moment in self.back_at if moment > self.world.passed]

    def leave(self) -> None:
        """The driver is gone, and its workers with it, some of them after a last command."""
        for worker in list(self.workers):
            if worker.calls and self.world.chance.fault("outlives"):
                self._execute(worker)
            self._end(worker)
        self.rooms.clear()
        self.waited = 0
