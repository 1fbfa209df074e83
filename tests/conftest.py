"""Shared fixtures: one Ray for all that need one, the command line run as people do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.commands import ROOT, Command

CPUS = 4
"""Of the shared Ray, whatever the machine has: what tests reserve is small."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """Address of one local Ray, which this process has joined, for all tests that need no other."""
    import ray

    ray.init(
        num_cpus=CPUS,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=200 * 2**20,
        _node_ip_address="127.0.0.1",
        _system_config={"prestart_worker_first_driver": False},
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@dataclass(frozen=True)
class Finished:
    """What a command left: exit code, output, and its last line as JSON."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out.strip().splitlines()[-1])


@pytest.fixture
def growstage() -> Callable[..., Finished]:
    """``growstage("run", ...)`` in a process of its own."""

    def call(*args: object, cwd: Path = ROOT, timeout: float = 300, **env: str) -> Finished:
        command = Command("orchestrator", *args, cwd=cwd, env=env)
        return Finished(command.wait(timeout), command.out, command.err)

    return call
