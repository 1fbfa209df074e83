"""What integration tests share, since each costs seconds: stores that are set up, a trainer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


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
