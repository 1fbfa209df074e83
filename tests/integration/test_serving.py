"""An exported model behind MLflow's own server, started as the folder's README says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.report import checkpoints
from tests.commands import ROOT
from tests.doors.lane import run_lane
from tests.heads import free_port
from workers import trainers

RAW = {
    "name": "served",
    "stream": {"kind": "split", "dataset": "digits", "classes_per_task": 5},
    "model": {"head": {"kind": "mlp", "hidden": [16]}},
    "training": {"epochs": 2, "intervals": 1},
    "lanes": [{"method": "finetune"}],
}


@pytest.mark.slow
def test_mlflow_serves_an_exported_model(tmp_path: Path) -> None:
    """Answers over HTTP with what the model says in this process."""
    run_lane(tmp_path / "run", RAW)
    found = checkpoints.find(tmp_path / "run", None, None)
    trainers.export(found.lane.spec(), found.checkpoint, tmp_path / "model")
    predictor = trainers.predictor(found.lane.spec(), found.checkpoint)
    task = found.lane.tasks()[-1]
    inputs = predictor.stream.held_out(task)["test"].x[:4]
    said, _ = predictor.predict(inputs)

    port = free_port()
    command = ["-m", "mlflow", "models", "serve", "-m", str(tmp_path / "model")]
    options = ["--env-manager", "local", "--port", str(port)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # its uvicorn
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
    with subprocess.Popen(
        [sys.executable, *command, *options], env=env, start_new_session=True
    ) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(server, f"{address}/ping")
            asked = json.dumps({"inputs": inputs.tolist()}).encode()
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{address}/invocations", asked, headers)
            told = json.load(urllib.request.urlopen(request, timeout=30))["predictions"]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
    assert [row["prediction"] for row in told] == said
    assert sum(told[0][f"p({label})"] for label in range(10)) == pytest.approx(1.0, abs=1e-4)


def wait_for(server: subprocess.Popen[bytes], address: str, seconds: float = 120.0) -> None:
    """Until it answers at the address; an error where it ends before, or does not in time."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(OSError):  # nobody is there yet
            if urllib.request.urlopen(address, timeout=2).status == 200:
                return
        assert server.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.5)
