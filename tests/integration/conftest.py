"""What integration tests share, since each costs seconds: one Ray, and stores that are set up."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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


@pytest.fixture(scope="session")
def make_runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Makes the folder for run folders in a given one, with an empty MLflow store's file in it.

    MLflow takes seconds to create one: it applies all changes of its tables since its beginnings.
    """
    from orchestrator.tracking.tracker import Tracker

    template = tmp_path_factory.mktemp("template")
    Tracker(template / "none", None).connect()

    def make(folder: Path) -> Path:
        runs = folder / "runs"
        runs.mkdir()
        shutil.copy(template / "mlflow.db", runs)
        return runs

    return make


@pytest.fixture
def runs(make_runs: Callable[[Path], Path], tmp_path: Path) -> Path:
    """A folder for run folders with a store that is set up."""
    return make_runs(tmp_path)


@pytest.fixture
def trainer() -> Iterator[Any]:
    """An RLlib trainer, closed afterwards."""
    from workers.rl.trainer import RLTrainer

    made = RLTrainer()
    yield made
    made.close()
