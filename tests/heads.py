"""A local Ray head with dashboard and token authentication, for tests of jobs."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

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

    def ray(self, *args: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        command = [str(RAY), *(str(part) for part in args)]
        return subprocess.run(
            command,
            cwd=cwd,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=420,
            check=False,
        )

    def submit(self, *entrypoint: object, cwd: Path = ROOT) -> str:
        """`ray job submit` in ``cwd``, waiting for its end; returns what was streamed."""
        where = ("--address", self.address, "--working-dir", ".")
        done = self.ray("job", "submit", *where, "--", *entrypoint, cwd=cwd)
        output = done.stderr + done.stdout
        assert done.returncode == 0, output[-4000:]
        found = re.search(r"raysubmit_\w+", output)
        assert found is not None, output
        status = self.ray("job", "status", "--address", self.address, found.group())
        assert "SUCCEEDED" in (status.stdout + status.stderr).upper()
        return output


@contextmanager
def running_head() -> Iterator[Head]:
    """A local head with dashboard and token authentication; ended by its own process group."""
    folder = Path(tempfile.mkdtemp(prefix="gs", dir="/tmp"))  # short: sockets live under it
    (folder / "token").write_text(secrets.token_hex(32))
    env = {
        **os.environ,
        "PATH": os.pathsep.join([str(RAY.parent), os.environ["PATH"]]),  # the job's `python`
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
    }
    dashboard = free_port()
    command = [
        RAY, "start", "--head", "--block", "--num-cpus=2", "--include-dashboard=true",
        f"--port={free_port()}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1",
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
    found = Head(f"http://127.0.0.1:{dashboard}", env)
    try:
        deadline = time.monotonic() + 120
        while found.ray("job", "list", "--address", found.address).returncode != 0:
            assert process.poll() is None, (folder / "head.log").read_text()
            assert time.monotonic() < deadline, "the head did not come up"
        yield found
    finally:
        process.terminate()  # it ends its own processes; all at once, it waits for them in vain
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)
