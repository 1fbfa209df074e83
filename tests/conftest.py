"""Shared fixtures: run the command line as people do, and find devices and data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Finished:
    """What a command left: exit code, output, and its last line as JSON."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out.strip().splitlines()[-1])


@pytest.fixture
def growstage() -> Callable[..., Finished]:
    """``growstage("run", ...)`` in a process of its own."""

    def call(*args: object, cwd: Path = ROOT, timeout: float = 300, **env: str) -> Finished:
        command = [sys.executable, "-m", "orchestrator", *(str(arg) for arg in args)]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200", **env},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return call
