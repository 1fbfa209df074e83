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


def test_a_raylet_that_stands_still_is_not_waited_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVES], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["left", "-9"]
