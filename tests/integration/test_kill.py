"""kill -9 of the driver, and of a worker, at random moments: the same bits, every edit once.

``GROWSTAGE_CHAOS=10`` raises the number of driver kills (``make chaos``).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.events import EditApplied, LaneOpened
from orchestrator.journal import read
from tests.conftest import ROOT

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
epochs = 40
intervals = 6
optimizer = { kind = "adamw", lr = 2e-3 }
[growth]
kind = "periodic"
[[lanes]]
method = { kind = "replay", buffer = 100 }
"""


def launch(*args: object) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "orchestrator", *(str(arg) for arg in args)]
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finish(*args: object) -> None:
    """Run a command to its end."""
    process = launch(*args)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()[-3000:]


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
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(config file, run folder) of a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = folder / "kill.toml"
    config.write_text(CONFIG)
    run_dir = folder / "runs" / "whole"
    finish("run", config, "--run-dir", run_dir)
    return config, run_dir


def test_driver_killed_at_random_moments(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    config, whole = undisturbed
    run_dir = tmp_path / "runs" / "killed"
    journal = run_dir / "journal.jsonl"
    moments = random.Random(os.environ.get("GROWSTAGE_CHAOS_SEED", "7"))
    total = len(events(whole))
    for lines in sorted(moments.sample(range(1, total - 3), KILLS)):
        process = launch("run", config, "--run-dir", run_dir)
        while process.poll() is None:
            if journal.exists() and journal.read_bytes().count(b"\n") >= lines:
                break
            time.sleep(0.005)
        time.sleep(moments.uniform(0.0, 0.05))
        assert process.poll() is None, "killed too late: nothing was disturbed"
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish("resume", run_dir)
    assert essence(run_dir) == essence(whole)
    decided = Counter(
        edit.id for record, _ in read(run_dir / "journal.jsonl") for edit in record.edits
    )
    assert set(decided.values()) == {1}
    assert len(decided) == 4
    assert set(mlflow_names(run_dir).values()) == {1}


def test_worker_killed_in_mid_stage(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    config, whole = undisturbed
    run_dir = tmp_path / "runs" / "worker"
    process = launch("run", config, "--run-dir", run_dir)
    killed: set[int] = set()
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
        if not (run_dir / "journal.jsonl").exists():
            continue
        seen = events(run_dir)
        opened = [event.report.pid for event in seen if isinstance(event, LaneOpened)]
        edits = sum(isinstance(event, EditApplied) for event in seen)
        if opened and edits > 2 * len(killed) and len(killed) < 2 and opened[-1] not in killed:
            os.kill(opened[-1], signal.SIGKILL)
            killed.add(opened[-1])
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err.decode()[-3000:]
    assert len(killed) == 2
    assert essence(run_dir) == essence(whole)


def test_interrupt_saves_the_state_and_says_how_to_go_on(
    undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    config, whole = undisturbed
    run_dir = tmp_path / "runs" / "interrupted"
    process = launch("run", config, "--run-dir", run_dir)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        time.sleep(0.1)
        if (run_dir / "journal.jsonl").exists() and any(
            isinstance(event, EditApplied) for event in events(run_dir)
        ):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"growstage resume {run_dir}" in err.decode()
    finish("resume", run_dir)
    assert essence(run_dir) == essence(whole)
