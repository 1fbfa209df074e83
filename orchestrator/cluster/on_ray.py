"""A Ray cluster as the executor knows clusters: actors, their calls, and what Ray's errors mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.cluster.calls import CallFailed
from orchestrator.cluster.connection import cluster_size, own_address
from orchestrator.cluster.executor import WorkerExecutor
from orchestrator.config.run import Resources
from orchestrator.core.plans import FailureKind
from workers.contract import CheckpointError, DivergedError, InputError, LostError


class RayCluster:
    """The cluster that this process has joined."""

    own_address = staticmethod(own_address)
    size = staticmethod(cluster_size)

    def place(self, shell: type, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
        return ray.remote(shell).options(**options).remote(*arguments)

    def call(self, worker: Any, method: str, *arguments: Any) -> Any:
        return getattr(worker, method).remote(*arguments)

    def wait(self, calls: list[Any], timeout: float) -> list[Any]:
        done, _ = ray.wait(calls, num_returns=1, timeout=timeout)
        return list(done)

    def answer(self, call: Any) -> Any:
        try:
            return ray.get(call)
        except RayError as error:
            raise CallFailed(failure_kind(error), _message(error)) from error

    def kill(self, worker: Any) -> None:
        ray.kill(worker)

    def reserve(self, bundles: Sequence[Mapping[str, float]]) -> PlacementGroup:
        return placement_group([dict(bundle) for bundle in bundles], strategy="SPREAD")

    def within(self, room: PlacementGroup, index: int) -> Mapping[str, Any]:
        return {"scheduling_strategy": PlacementGroupSchedulingStrategy(room, index)}

    def release(self, room: PlacementGroup) -> None:
        remove_placement_group(room)


class RayExecutor(WorkerExecutor):
    """Performs actions on the Ray cluster that this process has joined."""

    def __init__(
        self,
        checkpoints: Path | str,
        resources: Mapping[str, Resources],
        owns_cluster: bool = True,
        patience: float = math.inf,
    ) -> None:
        super().__init__(checkpoints, resources, RayCluster(), owns_cluster, patience)


def failure_kind(error: RayError) -> FailureKind:
    """Whether the stage's own code failed, or what it ran on: a process, a node, memory.

    A worker that Ray could not start or keep (no memory, its environment not set up in time) is
    lost like one that was killed.
    """
    if not isinstance(error, RayTaskError):
        return "worker_lost"
    if isinstance(error.cause, DivergedError):
        return "diverged"
    if isinstance(error.cause, CheckpointError):
        return "checkpoint_lost"
    lost = isinstance(error.cause, (LostError, RayActorError))
    return "worker_lost" if lost else "stage_error"


def _message(error: RayError) -> str:
    """A user's mistake in its own words, any other error with where it was raised."""
    if not isinstance(error, RayTaskError):
        return str(error).strip()
    cause = error.cause
    if isinstance(cause, InputError):
        return str(cause)
    return f"{type(cause).__name__}: {cause}\n{str(error).strip()}"
