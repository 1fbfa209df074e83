"""A run whose folder lies behind a URI: killed, then gone on with as from another machine.

The file system is a user's own, found by fsspec through its entry point, in every process.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ops.build import cache_folder
from tests.commands import ROOT, Command

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
[policies.growth]
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


@pytest.mark.slow
def test_killed_here_resumed_there(cluster: str, runs: Path, plugin: Path, tmp_path: Path) -> None:
    """Each machine has a cache of its own; all of them reach the same storage."""
    config = tmp_path / "far.toml"
    config.write_text(CONFIG)
    store = tmp_path / "store"
    uri = f"elsewhere://{store}/run"
    same = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(plugin)]),
        "GROWSTAGE_OPS_CACHE": str(cache_folder()),  # compiling the kernels takes a minute
        "RAY_ADDRESS": cluster,
    }
    here, there, third = (
        {**same, "XDG_CACHE_HOME": str(tmp_path / name)} for name in ("here", "there", "third")
    )
    tracking = ("--tracking-uri", f"sqlite:///{runs / 'mlflow.db'}")

    first = Command("orchestrator", "run", config, "--run-dir", uri, *tracking, env=here)
    first.until(lambda: list(store.glob("run/checkpoints/*/000-*")))
    first.kill()
    resumed = Command("orchestrator", "resume", uri, "--json", *tracking, env=there)
    undisturbed = Command(
        "orchestrator", "run", config, "--run-dir", runs / "whole", "--json", env=there
    )
    killed, whole = resumed.json()["lanes"][0], undisturbed.json()["lanes"][0]
    assert [stage["checkpoint"]["digest"] for stage in killed["stages"]] == [
        stage["checkpoint"]["digest"] for stage in whole["stages"]
    ]
    assert killed["matrix"] == whole["matrix"]
    assert all(stage["checkpoint"]["uri"].startswith(uri) for stage in killed["stages"])
    show = Command("orchestrator", "show", uri, "--json", env=third)
    assert show.json()["lanes"][0] == killed
