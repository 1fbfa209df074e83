"""The one file that talks to Ray: actions become calls on worker actors, answers become events.

Knows no policy: what a failure means is the controller's business.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from orchestrator.config import Resources
from orchestrator.events import (
    Action,
    ApplyEdit,
    CheckpointSaved,
    CloseLane,
    ClusterChanged,
    Command,
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
from workers.contract import (
    CheckpointRef,
    DivergedError,
    EvaluationReport,
    InputError,
    LaneSpec,
    LostError,
    OpenReport,
    RunError,
    TaskSpec,
    Trainer,
)

CONNECT_TIMEOUT_S = 10.0
STARTS = 2
"""How often a local Ray is started before the run gives up."""
UNANSWERED = (ConnectionError, TimeoutError, RuntimeError, RayError)
WATCH_S = 2.0
"""Seconds between two looks at what the cluster has."""
ROOT = Path(__file__).resolve().parent.parent


class LaneWorker:
    """Actor shell around one lane's Trainer: numbers commands and remembers its last answer."""

    def __init__(self, engine: str) -> None:
        from workers.engines import make_trainer

        self.trainer: Trainer = make_trainer(engine)
        self.last: tuple[int, Any] = (0, None)

    def pid(self) -> int:
        return os.getpid()

    def open(self, spec: LaneSpec, checkpoint: CheckpointRef | None) -> OpenReport:
        report = self.trainer.open(spec, checkpoint)
        self.last = (report.seq, None)
        return report

    def execute(self, command: Command, folder: str) -> Any:
        """Execute a command, or repeat the answer where it was the last one executed."""
        if command.seq != self.last[0]:
            self.last = (command.seq, PERFORM[type(command)](self.trainer, command, folder))
        return self.last[1]

    def close(self) -> None:
        self.trainer.close()


class EvaluationWorker:
    """Actor shell around an Evaluator: scores checkpoints beside training."""

    def __init__(self, engine: str) -> None:
        from workers.engines import make_evaluator

        self.evaluator = make_evaluator(engine)

    def evaluate(
        self, spec: LaneSpec, checkpoint: CheckpointRef, tasks: tuple[TaskSpec, ...]
    ) -> EvaluationReport:
        return self.evaluator.evaluate(spec, checkpoint, tasks)


PERFORM: Mapping[type, Callable[[Trainer, Any, str], Any]] = {
    StartStage: lambda trainer, command, folder: trainer.start(command.stage),
    RunInterval: lambda trainer, command, folder: trainer.run_interval(
        command.n, command.mask_version
    ),
    ApplyEdit: lambda trainer, command, folder: trainer.apply(command.edit),
    SaveCheckpoint: lambda trainer, command, folder: trainer.save(
        f"{folder}/{command.name}", command.seq
    ),
}

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
    """A call under way: the action it serves and the actor it runs on."""

    action: Action
    actor: Any


class RayExecutor:
    """Performs actions on a Ray cluster; one worker actor per open lane, evaluators beside."""

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
        self.workers: dict[str, Any] = {}
        self.evaluators: dict[str, Any] = {}
        self.calls: dict[Any, Call] = {}

    # ------------------------------------------------------------ actions

    def perform(self, action: Action) -> None:
        """Start the action; its event comes out of ``wait``."""
        match action:
            case OpenLane():
                self._drop(action.spec.lane)
                worker = self._place(LaneWorker, action.spec, evaluator=False)
                self.workers[action.spec.lane] = worker
                self._evaluator(action.spec)  # let it start while the first stage trains
                self._track(worker.open.remote(action.spec, action.checkpoint), action, worker)
            case CloseLane():
                worker = self.workers[action.lane]
                self._track(worker.close.remote(), action, worker)
            case Evaluate():
                evaluator = self._evaluator(action.spec)
                ref = evaluator.evaluate.remote(action.spec, action.checkpoint, action.tasks)
                self._track(ref, action, evaluator)
            case StartStage() | RunInterval() | ApplyEdit() | SaveCheckpoint():
                worker = self.workers[action.lane]
                self._track(worker.execute.remote(action, self.folder), action, worker)
            case _:
                raise AssertionError(f"not an action of workers: {action!r}")

    def wait(self, timeout: float) -> list[Event]:
        """Events of the calls that came back; empty after ``timeout`` seconds without any."""
        changed = self._watch()
        if changed or not self.calls:
            time.sleep(0.0 if changed else min(timeout, 0.05))
            return changed
        done, _ = ray.wait(list(self.calls), num_returns=1, timeout=timeout)
        return [self._event(ref, self.calls.pop(ref)) for ref in done]

    def close(self) -> None:
        """Let every worker go."""
        for lane in list(self.workers):
            self._drop(lane)
        for evaluator in self.evaluators.values():
            ray.kill(evaluator)
        self.evaluators.clear()
        self.calls.clear()

    # ------------------------------------------------------------ inside

    def _place(self, shell: type, spec: LaneSpec, evaluator: bool) -> Any:
        need = self.resources[spec.lane]
        threads = {"OMP_NUM_THREADS": str(spec.threads), "MKL_NUM_THREADS": str(spec.threads)}
        options = {
            "num_cpus": need.evaluator_cpus if evaluator else need.cpus,
            "num_gpus": need.evaluator_gpus if evaluator else need.gpus,
            "resources": {} if evaluator else dict(need.custom),
            "max_restarts": 0,
            "runtime_env": {"env_vars": threads},
        }
        if self.owns_cluster and not evaluator:
            options["scheduling_strategy"] = "SPREAD"
        return ray.remote(shell).options(**options).remote(spec.engine)

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

    def _track(self, ref: Any, action: Action, actor: Any) -> None:
        self.calls[ref] = Call(action, actor)

    def _drop(self, lane: str) -> None:
        """Give a lane's worker up, whatever state it is in; its late answers are ignored."""
        worker = self.workers.pop(lane, None)
        if worker is not None:
            ray.kill(worker)

    def _event(self, ref: Any, call: Call) -> Event:
        try:
            answer = ray.get(ref)
        except RayError as error:
            return self._failure(call, error)
        action, at = call.action, time.time()
        if isinstance(action, CloseLane):
            self._drop(action.lane)
        return ANSWER[type(action)](action, answer, at)

    def _failure(self, call: Call, error: RayError) -> WorkFailed:
        action = call.action
        kind = failure_kind(error)
        message = str(error).strip()
        if isinstance(error, RayTaskError):
            cause = error.cause
            plain = isinstance(cause, InputError)
            message = str(cause) if plain else f"{type(cause).__name__}: {cause}\n{message}"
        if isinstance(action, Evaluate):
            if kind == "worker_lost" and self.evaluators.get(action.spec.engine) is call.actor:
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
        return WorkFailed(
            at=time.time(),
            lane=lane,
            attempt=action.attempt,  # type: ignore[union-attr]
            kind=kind,
            index=getattr(action, "index", -1),
            message=message,
        )


def failure_kind(error: RayError) -> FailureKind:
    """Whether the stage's own code failed, or what it ran on: a process, a node, memory.

    A worker that Ray could not start or keep (no memory, its environment not set up in time) is
    lost like one that was killed.
    """
    if not isinstance(error, RayTaskError):
        return "worker_lost"
    if isinstance(error.cause, DivergedError):
        return "diverged"
    lost = isinstance(error.cause, (LostError, RayActorError))
    return "worker_lost" if lost else "stage_error"


# ---------------------------------------------------------------- the cluster


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
    """Leave the cluster, or end the local Ray that ``connect`` started."""
    with suppress(GetTimeoutError):
        ray.shutdown()


def _user_path() -> list[str]:
    """Folders the user's own modules are imported from, for the workers' path."""
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
