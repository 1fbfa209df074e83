"""A local Ray head with dashboard and token authentication, for tests of jobs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RAY = Path(sys.executable).parent / "ray"


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@dataclass(frozen=True)
class Head:
    """A running head: where its dashboard is, and the environment that knows its token."""

    address: str
    env: dict[str, str]
    gcs: str = ""
    """HOST:PORT that drivers join."""

    @property
    def token(self) -> str:
        """What Ray wrote at the first local run."""
        return (Path(self.env["HOME"]) / ".ray" / "auth_token").read_text()

    def request(self, path: str, data: bytes | None = None) -> Any:
        """What the dashboard answers (POST where there is ``data``)."""
        headers = {"Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(f"{self.address}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def up(self) -> bool:
        """Whether jobs can be submitted."""
        try:
            return self.request("/api/jobs/") == []
        except OSError:
            return False

    def stop(self, job: str) -> None:
        """What `ray job stop` asks, without the seconds that command takes to start."""
        assert self.request(f"/api/jobs/{job}/stop", b"") == {"stopped": True}

    def submit(self, *entrypoint: object, cwd: Path) -> str:
        """`RAY_AUTH_MODE=token ray job submit` in ``cwd``, waiting for its end; returns what was
        streamed."""
        where = ("--address", self.address, "--working-dir", ".")
        done = subprocess.run(
            [str(part) for part in (RAY, "job", "submit", *where, "--", *entrypoint)],
            cwd=cwd,
            env={**self.env, "RAY_AUTH_MODE": "token"},
            capture_output=True,
            text=True,
            timeout=420,
            check=False,
        )
        output = done.stderr + done.stdout
        assert done.returncode == 0, output[-4000:]
        found = re.search(r"raysubmit_\w+", output)
        assert found is not None, output
        assert self.request(f"/api/jobs/{found.group()}")["status"] == "SUCCEEDED"
        return output


@contextmanager
def running_head(before: Callable[[Mapping[str, str]], None]) -> Iterator[Head]:
    """A local head with a dashboard as a new user starts one: ``before`` it, given the environment
    with an empty home, a first local run. Ended by its own process group."""
    folder = Path(tempfile.mkdtemp(prefix="gs", dir="/tmp"))  # short: sockets live under it
    home = folder / "home"
    home.mkdir()
    (home / ".cache").symlink_to(Path.home() / ".cache")  # compiled code, which takes minutes
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    env |= {
        "HOME": str(home),
        "PATH": os.pathsep.join([str(RAY.parent), os.environ["PATH"]]),  # the job's `python`
        "RAY_TMPDIR": str(folder),
    }
    before(env)
    dashboard, gcs = free_port(), free_port()
    command = [
        RAY, "start", "--head", "--block", "--num-cpus=2", "--include-dashboard=true",
        f"--port={gcs}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1",
        f"--temp-dir={folder}", "--disable-usage-stats", f"--ray-client-server-port={free_port()}",
        f"--dashboard-agent-listen-port={free_port()}",
    ]  # fmt: skip
    with open(folder / "head.log", "wb") as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    found = Head(f"http://127.0.0.1:{dashboard}", env, f"127.0.0.1:{gcs}")
    try:
        deadline = time.monotonic() + 120
        while not found.up():
            assert process.poll() is None, (folder / "head.log").read_text()
            assert time.monotonic() < deadline, "the head did not come up"
            time.sleep(0.2)
        yield found
    finally:
        process.terminate()  # it ends its own processes; all at once, it waits for them in vain
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)
