"""A local Ray whose raylet stands still (a starved machine, a debugger) is left all the same."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

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
import os, signal, time
from pathlib import Path
import ray
from orchestrator.cluster import connection, local_ray

def left():
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (place / "environ").read_bytes():
                line = (place / "cmdline").read_bytes()
                found += [line[:40]] if line.startswith(b"ray::") else []
        except OSError:
            pass
    return found

connection.connect(None)
mark = os.environ[local_ray.LOCAL_RAY].encode()
assert left(), "agents carry the mark"
processes = ray._private.worker._global_node.all_processes
for name in ("raylet", "gcs_server"):
    (started,) = processes[name]
    os.kill(started.process.pid, signal.SIGKILL)
connection.disconnect()
assert local_ray.LOCAL_RAY not in os.environ
until = time.monotonic() + 20.0
while left() and time.monotonic() < until:
    time.sleep(0.2)
print("left", left())
"""

WAITS = """
import os, signal
import ray
from orchestrator.cluster import connection, local_ray

local_ray.HEAD_GONE_S = 3.0
connection.connect(None)
print(os.environ[local_ray.LOCAL_RAY], flush=True)
(head,) = ray._private.worker._global_node.all_processes["gcs_server"]
os.kill(head.process.pid, signal.SIGKILL)
print(ray.cluster_resources())  # which waits for the head
"""


def test_a_call_that_waits_for_a_killed_head_ends_with_what_to_do() -> None:
    """Ray ended the process itself, after a minute, and its agents stayed."""
    done = subprocess.run(
        [sys.executable, "-c", WAITS], cwd=ROOT, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 1
    assert done.stderr.strip().endswith("go on with `growstage resume`"), done.stderr
    (mark,) = done.stdout.split()
    until = time.monotonic() + 20.0
    while (left := _marked(mark)) and time.monotonic() < until:
        time.sleep(0.2)
    assert left == []


def _marked(mark: str) -> list[bytes]:
    """Ray's processes that have the mark in their environment."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (place / "cmdline").read_bytes()
            if mark.encode() in (place / "environ").read_bytes() and line.startswith(b"ray::"):
                found.append(line[:40])
    return found


def test_nothing_stays_of_a_ray_whose_head_was_killed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HEADLESS], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["left", "[]"]


def test_a_raylet_that_stands_still_is_not_waited_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVES], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["left", "-9"]
