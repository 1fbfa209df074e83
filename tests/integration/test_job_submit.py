"""`ray job submit` of the repository against a real local head: log streamed, SUCCEEDED."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.ray

RAY = Path(sys.executable).parent / "ray"


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """A local head with dashboard; ended by the process ids it left behind."""
    folder = tempfile.mkdtemp(prefix="gs", dir="/tmp")  # short: Ray's sockets live under it
    dashboard = free_port()
    env = {**os.environ, "RAY_TMPDIR": folder}
    command = [
        RAY, "start", "--head", "--block", "--num-cpus=2", "--include-dashboard=true",
        f"--port={free_port()}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1",
        f"--temp-dir={folder}", "--disable-usage-stats", f"--ray-client-server-port={free_port()}",
        f"--dashboard-agent-listen-port={free_port()}",
    ]  # fmt: skip
    process = subprocess.Popen(
        [str(part) for part in command],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{dashboard}"
    wait_for(address, process)
    yield address
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    from ray.job_submission import JobSubmissionClient

    deadline = time.monotonic() + 90
    while True:
        assert process.poll() is None, process.stdout and process.stdout.read().decode()
        try:
            JobSubmissionClient(address).list_jobs()
        except (ConnectionError, RuntimeError):
            assert time.monotonic() < deadline, "the head did not come up"
            time.sleep(0.5)
        else:
            return


def submit(address: str, *entrypoint: object, cwd: Path = ROOT) -> str:
    command = [RAY, "job", "submit", "--address", address, "--working-dir", ".", "--", *entrypoint]
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=420,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    return output


def status(address: str, output: str) -> str:
    from ray.job_submission import JobSubmissionClient

    found = re.search(r"raysubmit_\w+", output)
    assert found is not None, output
    return str(JobSubmissionClient(address).get_job_status(found.group()))


@pytest.mark.craftax
def test_quickstart_as_a_job(head: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "job"
    python = ["python", "-m", "orchestrator", "run", "configs/quickstart.toml"]
    output = submit(head, *python, "--run-dir", run_dir)
    assert status(head, output) == "SUCCEEDED"
    assert "digits-s0: grown to 2 experts" in output, "the log is streamed"
    assert "craftax-s0: grown to 2 experts" in output
    assert "run done" in output


def test_users_own_stream_as_a_job(head: str, tmp_path: Path) -> None:
    """The documented example, from a folder outside the repository."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for path in (ROOT / "docs" / "examples").iterdir():
        shutil.copy(path, folder)
    for package in ("orchestrator", "workers", "ops"):
        shutil.copytree(ROOT / package, folder / package)
    python = ["python", "-m", "orchestrator", "run", "my_stream.toml"]
    output = submit(head, *python, "--run-dir", tmp_path / "runs" / "mine", cwd=folder)
    assert status(head, output) == "SUCCEEDED"
    assert "run done" in output
