"""kill -9 of the driver, and of a worker, at random moments: the same bits, every edit once.

``GROWSTAGE_CHAOS=10`` raises the number of driver kills (``make test-chaos``).
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.events import EditApplied, LaneOpened, WorkFailed
from orchestrator.core.journal import read
from tests.commands import Command

KILLS = int(os.environ.get("GROWSTAGE_CHAOS", "3"))

pytestmark = pytest.mark.ray

CONFIG = """
name = "kill"
checkpoint_every = 2
[stream]
kind = "split"
dataset = "digits"
[model]
head = { kind = "moe", hidden = [64, 64] }
[training]
epochs = 20
intervals = 6
optimizer = { kind = "adamw", lr = 2e-3 }
[policies.growth]
kind = "periodic"
[[lanes]]
method = { kind = "replay", buffer = 100 }
"""


def finish(*args: object, **env: str) -> None:
    """Run a command to its end."""
    Command("orchestrator", *args, env=env).succeed()


def events(run_dir: Path) -> list[Any]:
    return [record.event for record, _ in read(run_dir / "journal.jsonl")]


def essence(run_dir: Path) -> Any:
    """Everything that must not depend on what was killed."""
    from orchestrator.session import report_of

    lane = report_of(run_dir)["lanes"][0]
    return {
        "matrix": lane["matrix"],
        "initial": lane["initial"],
        "checkpoints": [stage["checkpoint"]["digest"] for stage in lane["stages"]],
        "edits": [[edit["fingerprint"] for edit in stage["edits"]] for stage in lane["stages"]],
    }


def mlflow_names(run_dir: Path) -> Counter[str]:
    """Names of all MLflow runs of the run's store: a duplicate shows as a count of 2."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{run_dir.parent / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=1000)
    return Counter(run.data.tags["growstage.key"] for run in runs)


@pytest.fixture(scope="module")
def undisturbed(
    cluster: str,
    make_runs: Callable[[Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """(config file, run folder) of a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = folder / "kill.toml"
    config.write_text(CONFIG)
    run_dir = make_runs(folder) / "whole"
    finish("run", config, "--run-dir", run_dir, RAY_ADDRESS=cluster)
    return config, run_dir


def test_driver_killed_at_random_moments(
    undisturbed: tuple[Path, Path], cluster: str, runs: Path
) -> None:
    """At first it has a Ray of its own, which dies with it; then its cluster goes on without it.
    Before the last driver the folder is moved, and its checkpoints with it."""
    config, whole = undisturbed
    run_dir = runs / "killed"
    journal = run_dir / "journal.jsonl"
    moments = random.Random(os.environ.get("GROWSTAGE_CHAOS_SEED", "7"))
    total = len(events(whole))
    places = sorted(moments.sample(range(1, total - 3), KILLS))
    for lines in places:
        env = {} if lines == places[0] else {"RAY_ADDRESS": cluster}
        driver = Command("orchestrator", "run", config, "--run-dir", run_dir, env=env)
        driver.until(lambda: journal.exists() and journal.read_bytes().count(b"\n") >= lines)  # noqa: B023
        time.sleep(moments.uniform(0.0, 0.05))
        assert driver.poll() is None, "killed too late: nothing was disturbed"
        driver.kill()
    run_dir = run_dir.rename(runs / "moved")
    finish("resume", run_dir, RAY_ADDRESS=cluster)
    assert not any(isinstance(event, WorkFailed) for event in events(run_dir))
    assert essence(run_dir) == essence(whole)
    decided = Counter(
        edit.id for record, _ in read(run_dir / "journal.jsonl") for edit in record.edits
    )
    assert set(decided.values()) == {1}
    assert len(decided) == 4
    assert set(mlflow_names(run_dir).values()) == {1}


@pytest.mark.slow
def test_worker_killed_in_mid_stage(
    undisturbed: tuple[Path, Path], cluster: str, runs: Path
) -> None:
    config, whole = undisturbed
    run_dir = runs / "worker"
    env = {"RAY_ADDRESS": cluster}
    driver = Command("orchestrator", "run", config, "--run-dir", run_dir, env=env)
    killed: list[int] = []

    def worker_to_kill() -> int | None:
        """The live worker once it has been through one more edit than the one killed before it."""
        seen = events(run_dir) if (run_dir / "journal.jsonl").exists() else []
        opened = [event.report.pid for event in seen if isinstance(event, LaneOpened)]
        edits = sum(isinstance(event, EditApplied) for event in seen)
        ready = edits > 2 * len(killed) and opened[-1] not in killed
        return opened[-1] if ready else None

    for _ in range(2):
        killed.append(driver.until(worker_to_kill))
        os.kill(killed[-1], signal.SIGKILL)
    driver.succeed()
    assert essence(run_dir) == essence(whole)


def test_interrupt_saves_the_state_and_says_how_to_go_on(
    undisturbed: tuple[Path, Path], cluster: str, runs: Path
) -> None:
    config, whole = undisturbed
    run_dir = runs / "interrupted"
    env = {"RAY_ADDRESS": cluster}
    driver = Command("orchestrator", "run", config, "--run-dir", run_dir, env=env)
    driver.until(
        lambda: (
            (run_dir / "journal.jsonl").exists()
            and any(isinstance(event, EditApplied) for event in events(run_dir))
        )
    )
    driver.signal(signal.SIGINT)
    assert driver.wait(60) == 130
    assert f"-m orchestrator resume {run_dir}" in driver.err
    finish("resume", run_dir, RAY_ADDRESS=cluster)
    assert essence(run_dir) == essence(whole)
