"""A run whose folder lies behind a URI: killed, then gone on with as from another machine.

The file system is a user's own, found by fsspec through its entry point, in every process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.ray

PLUGIN = """
from fsspec.implementations.local import LocalFileSystem

class Elsewhere(LocalFileSystem):
    protocol = "elsewhere"

    @classmethod
    def _strip_protocol(cls, path):
        return LocalFileSystem._strip_protocol(str(path).removeprefix("elsewhere://"))
"""
CONFIG = """
name = "far"
checkpoint_every = 2
[stream]
kind = "split"
dataset = "digits"
classes_per_task = 5
[model]
head = { kind = "moe", hidden = [32] }
[training]
epochs = 20
intervals = 4
[growth]
kind = "periodic"
[[lanes]]
method = { kind = "replay", buffer = 50 }
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    folder = tmp_path / "plugin"
    info = folder / "elsewhere-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "elsewhere.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fsspec.specs]\nelsewhere = elsewhere:Elsewhere\n")
    return folder


class Machine:
    """A machine with a cache of its own; all of them reach the same storage."""

    def __init__(self, folder: Path, name: str, plugin: Path) -> None:
        path = os.pathsep.join([str(ROOT), str(plugin)])
        cache = str(folder / name)
        self.env = {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": cache}

    def launch(self, *args: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "orchestrator", *(str(arg) for arg in args)]
        return subprocess.Popen(
            command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def finish(self, *args: object) -> Any:
        import json

        process = self.launch(*args, "--json")
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err[-4000:]
        return json.loads(out.strip().splitlines()[-1])["lanes"][0]


def test_killed_here_resumed_there(tmp_path: Path, plugin: Path) -> None:
    config = tmp_path / "far.toml"
    config.write_text(CONFIG)
    store = tmp_path / "store"
    uri = f"elsewhere://{store}/run"
    here, there = (Machine(tmp_path, name, plugin) for name in ("here", "there"))

    process = here.launch("run", config, "--run-dir", uri)
    deadline = time.monotonic() + 180
    while not list(store.glob("run/checkpoints/*/000-*")):
        assert process.poll() is None, process.communicate()[1][-4000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    killed = there.finish("resume", uri)
    whole = there.finish("run", config, "--run-dir", tmp_path / "whole")
    assert [stage["checkpoint"]["digest"] for stage in killed["stages"]] == [
        stage["checkpoint"]["digest"] for stage in whole["stages"]
    ]
    assert killed["matrix"] == whole["matrix"]
    assert all(stage["checkpoint"]["uri"].startswith(uri) for stage in killed["stages"])
    assert there.finish("show", uri) == killed
