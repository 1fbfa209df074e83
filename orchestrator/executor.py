"""The one file that talks to Ray: actions become calls on worker actors, answers become events.

Knows no policy: what a failure means is the controller's business.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.config import Resources
from orchestrator.driver import needs
from orchestrator.events import (
    Action,
    ApplyEdit,
    CheckpointSaved,
    CloseLane,
    ClusterChanged,
    EditApplied,
    Evaluate,
    EvaluationDone,
    Event,
    FailureKind,
    IntervalDone,
    LaneClosed,
    LaneOpened,
    OpenLane,
    RunInterval,
    SaveCheckpoint,
    StageStarted,
    StartStage,
    WorkFailed,
)
from orchestrator.replicas import agreed
from orchestrator.shells import EvaluationWorker, LaneWorker
from workers.contract import (
    DivergedError,
    InputError,
    LaneSpec,
    LostError,
    RunError,
)

CONNECT_TIMEOUT_S = 10.0
STARTS = 2
"""How often a local Ray is started before the run gives up."""
UNANSWERED = (ConnectionError, TimeoutError, RuntimeError, RayError)
WATCH_S = 2.0
"""Seconds between two looks at what the cluster has."""
ROOT = Path(__file__).resolve().parent.parent


ANSWER: Mapping[type, Callable[[Any, Any, float], Event]] = {
    StartStage: lambda c, report, at: StageStarted(
        at=at, lane=c.lane, attempt=c.attempt, seq=c.seq, stage=c.stage, report=report
    ),
    RunInterval: lambda c, report, at: IntervalDone(
        at=at, lane=c.lane, attempt=c.attempt, seq=c.seq, report=report
    ),
    ApplyEdit: lambda c, report, at: EditApplied(
        at=at, lane=c.lane, attempt=c.attempt, seq=c.seq, edit=c.edit, report=report
    ),
    SaveCheckpoint: lambda c, ref, at: CheckpointSaved(
        at=at,
        lane=c.lane,
        attempt=c.attempt,
        seq=c.seq,
        index=c.index,
        final=c.final,
        checkpoint=ref,
    ),
    OpenLane: lambda a, report, at: LaneOpened(
        at=at, lane=a.spec.lane, attempt=a.attempt, report=report
    ),
    CloseLane: lambda a, report, at: LaneClosed(at=at, lane=a.lane, attempt=a.attempt),
    Evaluate: lambda a, report, at: EvaluationDone(
        at=at, lane=a.spec.lane, index=a.index, report=report
    ),
}


@dataclass(frozen=True, slots=True)
class Call:
    """An action under way on one actor, or on each of a lane's workers."""

    action: Action
    actors: tuple[Any, ...]
    answers: dict[int, Any] = field(default_factory=dict)
    """Rank of a worker -> its answer, as far as they came."""


class RayExecutor:
    """Performs actions on a Ray cluster; the worker actors of each open lane, evaluators beside."""

    def __init__(
        self, checkpoints: Path | str, resources: Mapping[str, Resources], owns_cluster: bool = True
    ) -> None:
        """``checkpoints``: path or URI that every node reaches. ``owns_cluster``: spread workers
        over the nodes and follow nodes that come and go; False inside a trial, whose workers stay
        in what was reserved for it."""
        self.folder = str(checkpoints)
        self.resources = resources
        self.owns_cluster = owns_cluster
        self.size: tuple[float, float] | None = None
        """CPUs and GPUs of the cluster as last told."""
        self.looked = time.monotonic()
        self.workers: dict[str, tuple[Any, ...]] = {}
        """Lane -> its workers by rank."""
        self.reserved: dict[str, PlacementGroup] = {}
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
                self._all(action, lambda worker: worker.close.remote())
            case Evaluate():
                evaluator = self._evaluator(action.spec)
                ref = evaluator.evaluate.remote(action.spec, action.checkpoint, action.tasks)
                self._track(action, (evaluator,), [ref])
            case StartStage() | RunInterval() | ApplyEdit() | SaveCheckpoint():
                self._all(action, lambda worker: worker.execute.remote(action, self.folder))
            case _:
                raise AssertionError(f"not an action of workers: {action!r}")

    def wait(self, timeout: float) -> list[Event]:
        """Events of the calls that came back; empty after ``timeout`` seconds without any."""
        changed = self._watch()
        if changed or not self.calls:
            time.sleep(0.0 if changed else min(timeout, 0.05))
            return changed
        done, _ = ray.wait(list(self.calls), num_returns=1, timeout=timeout)
        return [event for ref in done for event in self._came(ref)]

    def close(self) -> None:
        """Let every worker go."""
        for lane in list(self.workers):
            self._drop(lane)
        for evaluator in self.evaluators.values():
            ray.kill(evaluator)
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
        return ray.remote(shell).options(**options).remote(spec.engine, *more)

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
        group = placement_group([need] * spec.workers, strategy="SPREAD")
        self.reserved[spec.lane] = group
        return [
            {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, rank)}
            for rank in range(spec.workers)
        ]

    def _watch(self) -> list[Event]:
        """The cluster's size where it is another than last time."""
        now = time.monotonic()
        if not self.owns_cluster or now - self.looked < WATCH_S:
            return []
        self.looked = now
        before, self.size = self.size, cluster_size()
        if before in (None, self.size):
            return []
        return [ClusterChanged(at=time.time(), cpus=self.size[0], gpus=self.size[1])]

    def _evaluator(self, spec: LaneSpec) -> Any:
        if spec.engine not in self.evaluators:
            self.evaluators[spec.engine] = self._place(EvaluationWorker, spec, evaluator=True)
        return self.evaluators[spec.engine]

    def _open(self, action: OpenLane) -> None:
        """Place the lane's workers; several meet where the first one says."""
        spec = action.spec
        self._drop(spec.lane)
        places = tuple(
            self._place(LaneWorker, spec, own_address, **room) for room in self._rooms(spec)
        )
        self.workers[spec.lane] = places
        self._evaluator(spec)  # let it start while the first stage trains
        address = places[0].meet.remote() if spec.workers > 1 else None
        refs = [
            worker.open.remote(spec, action.checkpoint, rank, address)
            for rank, worker in enumerate(places)
        ]
        self._track(action, places, refs)

    def _all(self, action: Any, call: Callable[[Any], Any]) -> None:
        """The same call to each of the lane's workers."""
        workers = self.workers[action.lane]
        self._track(action, workers, [call(worker) for worker in workers])

    def _track(self, action: Action, actors: tuple[Any, ...], refs: Sequence[Any]) -> None:
        call = Call(action, actors)
        self.calls |= {ref: (call, rank) for rank, ref in enumerate(refs)}

    def _drop(self, lane: str) -> None:
        """Give a lane's workers up, whatever state they are in; their late answers are ignored."""
        workers = self.workers.pop(lane, ())
        late = [ref for ref, (call, _) in self.calls.items() if call.actors is workers]
        for ref in late:
            del self.calls[ref]
        for worker in workers:
            ray.kill(worker)
        if lane in self.reserved:
            remove_placement_group(self.reserved.pop(lane))

    def _came(self, ref: Any) -> list[Event]:
        """The event of an answer that came, once all of the action's workers have answered."""
        call, rank = self.calls.pop(ref, (None, 0))
        if call is None:
            return []
        action = call.action
        try:
            call.answers[rank] = ray.get(ref)
            if len(call.answers) < len(call.actors):
                return []
            answer = agreed(action, [call.answers[rank] for rank in range(len(call.actors))])
        except (RayError, DivergedError) as error:
            return [self._failure(call, error)]
        if isinstance(action, CloseLane):
            self._drop(action.lane)
        return [ANSWER[type(action)](action, answer, time.time())]

    def _failure(self, call: Call, error: RayError | DivergedError) -> WorkFailed:
        """What went wrong. The lane's workers are given up with it: what comes next needs new ones,
        and those left would wait for each other."""
        action = call.action
        kind = failure_kind(error)
        message = str(error).strip()
        if isinstance(error, RayTaskError):
            cause = error.cause
            plain = isinstance(cause, InputError)
            message = str(cause) if plain else f"{type(cause).__name__}: {cause}\n{message}"
        if isinstance(action, Evaluate):
            if kind == "worker_lost" and self.evaluators.get(action.spec.engine) is call.actors[0]:
                del self.evaluators[action.spec.engine]
            return WorkFailed(
                at=time.time(),
                lane=action.spec.lane,
                attempt=0,
                kind="evaluation",
                index=action.index,
                message=message,
            )
        lane = action.spec.lane if isinstance(action, OpenLane) else action.lane  # type: ignore[union-attr]
        self._drop(lane)
        return WorkFailed(
            at=time.time(),
            lane=lane,
            attempt=action.attempt,  # type: ignore[union-attr]
            kind=kind,
            index=getattr(action, "index", -1),
            message=message,
        )


def failure_kind(error: RayError | DivergedError) -> FailureKind:
    """Whether the stage's own code failed, or what it ran on: a process, a node, memory.

    A worker that Ray could not start or keep (no memory, its environment not set up in time) is
    lost like one that was killed.
    """
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, DivergedError):
        return "diverged"
    if not isinstance(error, RayTaskError):
        return "worker_lost"
    lost = isinstance(cause, (LostError, RayActorError))
    return "worker_lost" if lost else "stage_error"


# ---------------------------------------------------------------- the cluster


def own_address() -> str:
    """The address under which the cluster's other nodes reach this one."""
    return str(ray.util.get_node_ip_address())


def connect(address: str | None) -> tuple[float, float]:
    """Join the cluster at ``address`` (or the one a job runs in), or start a local Ray.

    Returns its CPUs and GPUs. Raises InputError where the cluster does not answer.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    paths = os.pathsep.join(dict.fromkeys([str(ROOT), os.getcwd(), *_user_path()]))
    options: dict[str, Any] = {
        "logging_level": logging.ERROR,
        "log_to_driver": False,
        "configure_logging": False,
        "runtime_env": {"env_vars": {"PYTHONPATH": paths}},
    }
    if address is None:
        _start(options | {"include_dashboard": False, "_node_ip_address": "127.0.0.1"})
        return cluster_size()
    _check_listening(address)
    options["address"] = address
    if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        del options["runtime_env"]  # the job's own: its working directory is on every node
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise _away(address, error) from error
    return cluster_size()


def _start(options: Mapping[str, Any]) -> None:
    """Start a local Ray; once more where the machine was too busy for its processes to answer.

    Raises RunError where they do not come up a second time either.
    """
    for attempt in range(STARTS):
        try:
            ray.init(**options)
            return
        except Exception as error:
            # Ray raises a bare Exception where its processes are not up within 30 seconds.
            if type(error) is not Exception and not isinstance(error, UNANSWERED):
                raise
            ray.shutdown()
            if attempt + 1 == STARTS:
                raise RunError(
                    f"a local Ray did not come up in {STARTS} attempts ({error}); free some of the "
                    "machine's memory and cores, or give a running cluster with --address"
                ) from error


def cluster_size() -> tuple[float, float]:
    """CPUs and GPUs of all live nodes."""
    total = ray.cluster_resources()
    return float(total.get("CPU", 0.0)), float(total.get("GPU", 0.0))


def nodes() -> list[dict[str, float]]:
    """What each live node has, by resource."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def ask_for_nodes(needs: Iterable[Mapping[str, float]]) -> None:
    """Tell an autoscaler what the lanes will need all at once; without one nothing comes of it."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[dict(need) for need in needs])


def _check_listening(address: str) -> None:
    """Ask host:port for a connection first: Ray ends the process where nothing answers."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # "auto" and the like: Ray finds the address and raises where there is none
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise _away(address, error) from error


def _away(address: str | None, error: Exception) -> InputError:
    return InputError(
        f"--address {address}: the Ray cluster does not answer ({error}); start one with "
        "`ray start --head`, or leave --address out for a local Ray"
    )


def disconnect() -> None:
    """Leave the cluster, or end the local Ray that ``connect`` started.

    What refers to Ray's objects in cycles is collected before: left to a collection in another
    thread, it would reach for a core worker that is gone, and Ray ends the process upon that.
    """
    gc.collect()
    with suppress(GetTimeoutError):
        ray.shutdown()


def _user_path() -> list[str]:
    """Folders the user's own modules are imported from, for the workers' path."""
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
