"""``make mutants [ROOMS="journal tracker"]``: whether the tests would notice a planted bug.

Each of ``table.toml`` is planted alone in a copy of the tree; then the tests of its room run, and
the simulated histories where those pass. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("table.toml")
HEAVY = ("torch", "pydantic", "hypothesis", "pytest", "safetensors.torch", "mlflow.entities")
"""Imported once, before the processes that run the tests part from this one."""
SIMULATED = ("controller", "lanes", "journal", "driver", "executor", "tracker")
"""Rooms that the simulated histories pass through."""
HISTORIES = "tests/simulation"
LIMIT_S = 240
"""After which tests that have not ended count as failed: the bug has them wait for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A planted bug."""

    room: str
    name: str
    file: str
    old: str
    new: str


def load(rooms: Sequence[str] = ()) -> tuple[list[Mutant], dict[str, list[str]]]:
    """The mutants of these rooms (none = all), and each room's tests.

    Raises ValueError where one no longer applies: what it replaces must be there exactly once.
    """
    told: Any = tomllib.loads(TABLE.read_text())
    mutants = [Mutant(**entry) for entry in told["mutants"]]
    for mutant in mutants:
        found = (ROOT / mutant.file).read_text().count(mutant.old)
        if found != 1:
            raise ValueError(
                f"{TABLE.name}, {mutant.room}: {mutant.name!r} replaces a text that is {found} "
                f"times in {mutant.file}; write it anew for what stands there now"
            )
    return [one for one in mutants if not rooms or one.room in rooms], told["rooms"]


@contextmanager
def planted(tree: Path, mutant: Mutant) -> Iterator[None]:
    """The bug is in the tree inside the block."""
    file = tree / mutant.file
    whole = file.read_text()
    file.write_text(whole.replace(mutant.old, mutant.new))
    try:
        yield
    finally:
        file.write_text(whole)


def passes(tree: Path, tests: Sequence[str]) -> bool:
    """Whether the tests pass in the tree, in a process of their own."""
    child = os.fork()
    if child == 0:
        _run(tree, tests)
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _run(tree: Path, tests: Sequence[str]) -> None:
    import pytest

    sys.dont_write_bytecode = True
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    sys.path[:] = [str(tree), *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    with open(tree / "output", "w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        there = [test for test in tests if (tree / test).exists()]
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *there])
    os._exit(int(code))


def copy(tree: Path) -> None:
    """What git knows of the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)


def main(rooms: Sequence[str]) -> int:
    """Plant each bug, tell each room's score; the number of bugs that nothing noticed."""
    mutants, tests = load(rooms)
    for name in HEAVY:
        import_module(name)
    killed: dict[str, list[bool]] = defaultdict(list)
    with TemporaryDirectory() as folder:
        tree = Path(folder)
        copy(tree)
        for room in dict.fromkeys(mutant.room for mutant in mutants):
            if not passes(tree, tests[room]):
                print((tree / "output").read_text())
                raise SystemExit(f"the tests of {room} fail without any bug; mend that first")
        for mutant in mutants:
            with planted(tree, mutant):
                alive = passes(tree, tests[mutant.room])
                if alive and mutant.room in SIMULATED:
                    alive = passes(tree, [HISTORIES])
            killed[mutant.room].append(not alive)
            print(f"{'SURVIVED' if alive else 'killed  '} {mutant.room}: {mutant.name}", flush=True)
    total = sum(len(found) for found in killed.values())
    dead = sum(sum(found) for found in killed.values())
    scores = {room: f"{sum(found)}/{len(found)}" for room, found in killed.items()}
    print(json.dumps({"mutants": total, "killed": dead, "rooms": scores}))
    return total - dead


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
