"""A local Ray whose raylet stands still (a starved machine, a debugger) is left all the same."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
LEAVES = """
import os, signal, sys
import ray
from orchestrator.cluster import connection, local_ray

connection.connect(None)
(raylet,) = ray._private.worker._global_node.all_processes["raylet"]
os.kill(raylet.process.pid, signal.SIGSTOP)
local_ray.LEAVE_S = 2.0
connection.disconnect()
print("left", raylet.process.poll())
"""

HEADLESS = """
import os, signal
import ray
from orchestrator.cluster import connection, local_ray

connection.connect(None)
processes = ray._private.worker._global_node.all_processes
print(processes["raylet"][0].process.pid, flush=True)
input()
for name in ("raylet", "gcs_server"):
    (started,) = processes[name]
    os.kill(started.process.pid, signal.SIGKILL)
connection.disconnect()
"""

WAITS = """
import os, signal
import ray
from orchestrator.cluster import connection, local_ray

local_ray.HEAD_GONE_S = 3.0
connection.connect(None)
print(ray._private.worker._global_node.all_processes["raylet"][0].process.pid, flush=True)
input()
(head,) = ray._private.worker._global_node.all_processes["gcs_server"]
os.kill(head.process.pid, signal.SIGKILL)
print(ray.cluster_resources())  # which waits for the head
"""


def test_a_call_that_waits_for_a_killed_head_ends_with_what_to_do() -> None:
    """Ray ended the process itself, after a minute, and its agents stayed."""
    code, told, left = headless(WAITS)
    assert code == 1
    assert told.endswith("go on with `growstage resume`"), told
    assert left == []


def test_nothing_stays_of_a_ray_whose_head_was_killed() -> None:
    code, told, left = headless(HEADLESS)
    assert code == 0, told
    assert left == []


def headless(program: str) -> tuple[int, str, list[str]]:
    """(exit code, what it told last, what is left of its Ray) of a program that tells its raylet's
    pid, waits for a line, and loses its head then. Its environment is small, as then Ray's agents
    write their title over all of it."""
    env = {name: os.environ[name] for name in ("PATH", "HOME")}
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdout is not None
        raylet = int(command.stdout.readline())
        started = [one.pid for one in psutil.Process(raylet).children()]
        agents = [pid for pid in started if title(pid).endswith("Agent")]
        assert len(agents) == 2, "Ray's agents"
        told = command.communicate("\n", timeout=60)[1]
    until = time.monotonic() + 20.0
    while (left := [title(pid) for pid in agents if title(pid)]) and time.monotonic() < until:
        time.sleep(0.2)
    return command.returncode, told.strip(), left


def title(pid: int) -> str:
    """Title of a process that Ray named, empty where it is gone."""
    with suppress(psutil.Error):
        return " ".join(psutil.Process(pid).cmdline()).strip()
    return ""


def test_a_raylet_that_stands_still_is_not_waited_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVES], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["left", "-9"]
