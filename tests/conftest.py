"""Shared fixtures: run the command line as people do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.commands import ROOT, Command


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
        command = Command("orchestrator", *args, cwd=cwd, env=env)
        return Finished(command.wait(timeout), command.out, command.err)

    return call
