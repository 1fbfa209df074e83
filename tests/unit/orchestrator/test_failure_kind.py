"""What Ray's errors mean to a run: what was lost is told from what the stage's code raised."""

from __future__ import annotations

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
)

from orchestrator.cluster.connection import connect
from orchestrator.cluster.on_ray import failure_kind
from workers.contract import DivergedError, InputError, LostError, RunError


def raised(cause: Exception) -> RayError:
    """What ``ray.get`` raises when a worker's code has raised ``cause``."""
    error = RayTaskError("execute", "traceback", cause)
    found = error.as_instanceof_cause()
    assert isinstance(found, RayTaskError)
    return found


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ActorDiedError(), "worker_lost"),
        (ActorUnavailableError("restarting", None), "worker_lost"),
        (OutOfMemoryError("killed by the memory monitor"), "worker_lost"),
        (NodeDiedError("gone"), "worker_lost"),
        (RuntimeEnvSetupError("timed out"), "worker_lost"),
        (raised(ActorDiedError()), "worker_lost"),
        (raised(LostError("a learner is gone")), "worker_lost"),
        (raised(DivergedError("replicas disagree")), "diverged"),
        (raised(InputError("no such file")), "stage_error"),
        (raised(RuntimeError("shapes do not fit")), "stage_error"),
    ],
)
def test_kind(error: RayError, kind: str) -> None:
    assert failure_kind(error) == kind


def test_a_local_ray_that_does_not_come_up_is_started_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    attempts: list[dict[str, object]] = []

    def too_busy(**options: object) -> None:
        attempts.append(options)
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", too_busy)
    with pytest.raises(RunError, match="did not come up in 2 attempts"):
        connect(None)
    assert len(attempts) == 2

    def wrong(**options: object) -> None:
        raise TypeError("no such option")

    monkeypatch.setattr(ray, "init", wrong)
    with pytest.raises(TypeError):
        connect(None)


@pytest.mark.parametrize(
    ("address", "source", "cure"),
    [("127.0.0.1:1", "--address", "leave --address out"), (None, "RAY_ADDRESS", "unset RAY_ADD")],
)
def test_a_cluster_that_is_away_is_told_by_where_its_address_came_from(
    monkeypatch: pytest.MonkeyPatch, address: str | None, source: str, cure: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(InputError, match=f"^{source} 127.0.0.1:1: .*{cure}"):
        connect(address)
