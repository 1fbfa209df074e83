"""Actions become calls on worker actors, their answers become events.

Knows no policy: what a failure means is the controller's business. Knows no Ray: ``Cluster`` is
where the world enters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.cluster.actors import EvaluationWorker, LaneWorker
from orchestrator.cluster.agreement import agreed
from orchestrator.cluster.answers import ANSWER
from orchestrator.cluster.calls import CallFailed, Cluster
from orchestrator.cluster.placement import needs
from orchestrator.config.run import Resources
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
from orchestrator.core.clock import CLOCK, Clock
from orchestrator.core.events import ClusterChanged, Event, WorkFailed
from orchestrator.core.folder import here
from workers.contract import DivergedError, LaneSpec, RunError

WATCH_S = 2.0
"""Seconds between two looks at what the cluster has."""
PATIENCE_S = 60.0
"""Seconds for which a Ray of the run's own may be without its node: nothing brings one back."""


@dataclass(frozen=True, slots=True)
class WorkerKind:
    """What a worker process was started for; it can serve any lane that asks for the same."""

    trainer: str
    resources: Resources


@dataclass(frozen=True, slots=True)
class Call:
    """An action under way on one actor, or on each of a lane's workers."""

    action: Action
    actors: tuple[Any, ...]
    answers: dict[int, Any] = field(default_factory=dict)
    """Rank of a worker -> its answer, as far as they came."""


class WorkerExecutor:
    """Performs actions on a cluster; the workers of each open lane, evaluators beside."""

    def __init__(
        self,
        checkpoints: Path | str,
        resources: Mapping[str, Resources],
        cluster: Cluster,
        owns_cluster: bool = True,
        patience: float = math.inf,
        clock: Clock = CLOCK,
    ) -> None:
        """``checkpoints``: path or URI that every node reaches. ``owns_cluster``: spread workers
        over the nodes and follow nodes that come and go; False inside a trial, whose workers stay
        in what was reserved for it. ``patience``: seconds without any node after which ``wait``
        gives up."""
        self.folder = str(checkpoints)
        self.cluster, self.clock = cluster, clock
        self.resources = resources
        self.owns_cluster = owns_cluster
        self.size: tuple[float, float] | None = None
        """CPUs and GPUs of the cluster as last told."""
        self.patience = patience
        self.looked = self.populated = clock.moment()
        """Moments at which the cluster was last looked at, and last had a core."""
        self.workers: dict[str, tuple[Any, ...]] = {}
        """Lane -> its workers by rank."""
        self.kinds: dict[str, WorkerKind] = {}
        """Lane of one worker -> what that was started for."""
        self.free: list[tuple[WorkerKind, Any]] = []
        """Workers whose lane closed with the last event; a lane that opens with it takes one."""
        self.reserved: dict[str, Any] = {}
        """Lane of several workers -> the room that is held for all of them."""
        self.evaluators: dict[str, Any] = {}
        self.calls: dict[Any, tuple[Call, int]] = {}
        """Answer to come -> the call it belongs to, and the rank of the worker that gives it."""

    # ------------------------------------------------------------ actions

    def perform(self, action: Action) -> None:
        """Start the action; its event comes out of ``wait``."""
        match action:
            case OpenLane():
                self._open(action)
            case CloseLane():
                self._all(action, "close")
            case DropLane():
                self._drop(action.lane)
            case Evaluate():
                evaluator = self._evaluator(action.spec)
                asked = (action.spec, here(action.checkpoint, self.folder), action.tasks)
                self._track(
                    action, (evaluator,), [self.cluster.call(evaluator, "evaluate", *asked)]
                )
            case StartStage() | RunInterval() | ApplyEdit() | SaveCheckpoint():
                self._all(action, "execute", action, self.folder)
            case _:
                raise AssertionError(f"not an action of workers: {action!r}")

    def wait(self, timeout: float) -> list[Event]:
        """Events of the calls that came back; empty after ``timeout`` seconds without any.

        Raises RunError where the cluster has had no node for longer than ``patience``.
        """
        self._let_go()
        changed = self._watch()
        if changed or not self.calls:
            self.clock.sleep(0.0 if changed else min(timeout, 0.05))
            return changed
        done = self.cluster.wait(list(self.calls), timeout)
        return [event for ref in done for event in self._came(ref)]

    def close(self) -> None:
        """Let every worker go."""
        for lane in list(self.workers):
            self._drop(lane)
        self._let_go()
        for evaluator in self.evaluators.values():
            self.cluster.kill(evaluator)
        self.evaluators.clear()
        self.calls.clear()

    # ------------------------------------------------------------ inside

    def _place(
        self, shell: type, spec: LaneSpec, *more: Any, evaluator: bool = False, **options: Any
    ) -> Any:
        need = self.resources[spec.lane]
        threads = {"OMP_NUM_THREADS": str(spec.threads), "MKL_NUM_THREADS": str(spec.threads)}
        options = {
            "num_cpus": need.evaluator_cpus if evaluator else need.cpus,
            "num_gpus": need.evaluator_gpus if evaluator else need.gpus,
            "resources": {} if evaluator else dict(need.custom),
            "max_restarts": 0,
            "runtime_env": {"env_vars": threads},
            **options,
        }
        return self.cluster.place(shell, (spec.trainer, *more), options)

    def _rooms(self, spec: LaneSpec) -> list[dict[str, Any]]:
        """Where to place each worker of a lane.

        Room for several is reserved at once, so that no two lanes wait for each other with half of
        their workers placed. Inside a trial all stay in what was reserved for it.
        """
        if not self.owns_cluster:
            return [{}] * spec.workers
        need = needs(self.resources[spec.lane])
        if spec.workers == 1 or not need:
            return [{"scheduling_strategy": "SPREAD"}] * spec.workers
        room = self.cluster.reserve([need] * spec.workers)
        self.reserved[spec.lane] = room
        return [dict(self.cluster.within(room, rank)) for rank in range(spec.workers)]

    def _watch(self) -> list[Event]:
        """The cluster's size where it is another than last time."""
        now = self.clock.moment()
        if not self.owns_cluster or now - self.looked < WATCH_S:
            return []
        self.looked = now
        before, self.size = self.size, self.cluster.size()
        if self.size[0]:
            self.populated = now
        elif now - self.populated > self.patience:
            raise RunError(
                f"Ray has had no node for {self.patience:g} s: its own processes were killed, or "
                "starved on a machine that is too busy; everything done is saved, go on with "
                "`growstage resume`"
            )
        if before in (None, self.size):
            return []
        return [ClusterChanged(at=self.clock.now(), cpus=self.size[0], gpus=self.size[1])]

    def _evaluator(self, spec: LaneSpec) -> Any:
        if spec.trainer not in self.evaluators:
            self.evaluators[spec.trainer] = self._place(EvaluationWorker, spec, evaluator=True)
        return self.evaluators[spec.trainer]

    def _open(self, action: OpenLane) -> None:
        """Find or place the lane's workers; several meet where the first one says."""
        spec = action.spec
        self._drop(spec.lane)
        kind = WorkerKind(spec.trainer, self.resources[spec.lane])
        if spec.workers == 1:
            self.kinds[spec.lane] = kind
        places = self._free_of(kind, spec.workers) or tuple(
            self._place(LaneWorker, spec, self.cluster.own_address, **room)
            for room in self._rooms(spec)
        )
        self.workers[spec.lane] = places
        self._evaluator(spec)  # let it start while the first stage trains
        address = self.cluster.call(places[0], "meet") if spec.workers > 1 else None
        saved = action.checkpoint and here(action.checkpoint, self.folder)
        refs = [
            self.cluster.call(worker, "open", spec, saved, rank, address, action.taken)
            for rank, worker in enumerate(places)
        ]
        self._track(action, places, refs)

    def _free_of(self, kind: WorkerKind, wanted: int) -> tuple[Any, ...]:
        """The free worker that was started for the same, which spares the start of a process;
        empty where several are wanted or there is none: then the free ones make room."""
        for index, (held, worker) in enumerate(self.free):
            if wanted == 1 and held == kind:
                del self.free[index]
                return (worker,)
        self._let_go()
        return ()

    def _let_go(self) -> None:
        """End the free workers: what they hold may be another run's turn."""
        for _, worker in self.free:
            self.cluster.kill(worker)
        self.free.clear()

    def _all(self, action: Any, method: str, *arguments: Any) -> None:
        """The same call to each of the lane's workers."""
        workers = self.workers[action.lane]
        refs = [self.cluster.call(worker, method, *arguments) for worker in workers]
        self._track(action, workers, refs)

    def _track(self, action: Action, actors: tuple[Any, ...], refs: Sequence[Any]) -> None:
        call = Call(action, actors)
        self.calls |= {ref: (call, rank) for rank, ref in enumerate(refs)}

    def _release(self, lane: str) -> None:
        """The lane is closed: its one worker may serve another, several part."""
        if lane in self.kinds:
            self.free.append((self.kinds.pop(lane), *self.workers.pop(lane)))
        self._drop(lane)

    def _drop(self, lane: str) -> None:
        """Give a lane's workers up, whatever state they are in; their late answers are ignored."""
        self.kinds.pop(lane, None)
        workers = self.workers.pop(lane, ())
        late = [ref for ref, (call, _) in self.calls.items() if call.actors is workers]
        for ref in late:
            del self.calls[ref]
        for worker in workers:
            self.cluster.kill(worker)
        if lane in self.reserved:
            self.cluster.release(self.reserved.pop(lane))

    def _came(self, ref: Any) -> list[Event]:
        """The event of an answer that came, once all of the action's workers have answered."""
        call, rank = self.calls.pop(ref, (None, 0))
        if call is None:
            return []
        action = call.action
        try:
            call.answers[rank] = self.cluster.answer(ref)
            if len(call.answers) < len(call.actors):
                return []
            answer = agreed(action, [call.answers[rank] for rank in range(len(call.actors))])
        except CallFailed as error:
            return [self._failure(call, error)]
        except DivergedError as error:
            return [self._failure(call, CallFailed("diverged", str(error)))]
        if isinstance(action, CloseLane):
            self._release(action.lane)
        return [ANSWER[type(action)](action, answer, self.clock.now())]

    def _failure(self, call: Call, error: CallFailed) -> WorkFailed:
        """What went wrong. The lane's workers are given up with it: what comes next needs new ones,
        and those left would wait for each other."""
        action, kind = call.action, error.kind
        if isinstance(action, Evaluate):
            if kind == "worker_lost" and self.evaluators.get(action.spec.trainer) is call.actors[0]:
                del self.evaluators[action.spec.trainer]
            return WorkFailed(
                at=self.clock.now(),
                lane=action.spec.lane,
                attempt=0,
                kind="model_lost" if kind == "checkpoint_lost" else "evaluation",
                index=action.index,
                message=error.message,
            )
        opens = isinstance(action, OpenLane) and action.checkpoint is not None
        if kind == "checkpoint_lost" and not opens:
            kind = "stage_error"  # of a model that another lane, or another run, made
        told = "; the lane goes on from the one before it" if kind == "checkpoint_lost" else ""
        lane = action.spec.lane if isinstance(action, OpenLane) else action.lane  # type: ignore[union-attr]
        self._drop(lane)
        return WorkFailed(
            at=self.clock.now(),
            lane=lane,
            attempt=action.attempt,  # type: ignore[union-attr]
            kind=kind,
            index=-1,
            message=error.message + told,
        )
