"""A local Ray whose raylet stands still (a starved machine, a debugger) is left all the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEAVES = """
import os, signal, sys
import ray
from orchestrator.cluster import connection

connection.connect(None)
(raylet,) = ray._private.worker._global_node.all_processes["raylet"]
os.kill(raylet.process.pid, signal.SIGSTOP)
connection.LEAVE_S = 2.0
connection.disconnect()
print("left", raylet.process.poll())
"""

HEADLESS = """
import os, signal, time
from pathlib import Path
import ray
from orchestrator.cluster import connection

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
mark = os.environ[connection.LOCAL_RAY].encode()
assert left(), "agents carry the mark"
processes = ray._private.worker._global_node.all_processes
for name in ("raylet", "gcs_server"):
    (started,) = processes[name]
    os.kill(started.process.pid, signal.SIGKILL)
connection.disconnect()
assert connection.LOCAL_RAY not in os.environ
until = time.monotonic() + 20.0
while left() and time.monotonic() < until:
    time.sleep(0.2)
print("left", left())
"""


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
