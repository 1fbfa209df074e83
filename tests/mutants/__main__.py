"""``make mutants [ROOMS="journal tracker"]``: whether the tests would notice a planted bug.

Each of ``table.toml`` is planted alone in a copy of the tree. The test that is known to find it
runs first; where that passes, the tests of its room, and then the simulated histories. The last
line is one JSON object.
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
from collections.abc import Iterator, Mapping, Sequence
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
    found_by: str = ""
    """The test that finds it; empty = those of its room are asked."""


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


def failing(tree: Path, tests: Sequence[str]) -> str | None:
    """The first of the tests that fails in the tree, in a process of its own; None = all pass."""
    told = tree / "failed"
    told.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        _run(tree, tests)
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            named = told.read_text() if told.exists() else "tests that cannot be collected"
            return None if status == 0 else named
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return f"no end after {LIMIT_S} s"


class _Noted:
    """Writes down which test failed."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.file.write_text(report.nodeid)


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
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        code = pytest.main([*options, *tests], plugins=[_Noted(tree / "failed")])
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


class Finder:
    """Looks for a test that fails with a bug, in a tree that the bug is planted in."""

    def __init__(self, tree: Path, rooms: Mapping[str, Sequence[str]]) -> None:
        self.tree, self.rooms = tree, rooms
        self._sound: set[str] = set()

    def __call__(self, mutant: Mutant) -> str | None:
        """The test that finds it; None = it survives."""
        tests = [[mutant.found_by]] if mutant.found_by else []
        tests.append(list(self.rooms[mutant.room]))
        if mutant.room in SIMULATED:
            tests.append([HISTORIES])
        for some in tests:
            self._check(some)
            with planted(self.tree, mutant):
                found = failing(self.tree, some)
            if found is not None:
                return found
        return None

    def _check(self, tests: Sequence[str]) -> None:
        """Raises SystemExit where they fail without any bug: then they would find all of them."""
        fresh = [test for test in tests if test not in self._sound]
        if fresh and failing(self.tree, fresh) is not None:
            print((self.tree / "output").read_text())
            raise SystemExit(f"{' '.join(fresh)}: fails without any bug; mend that first")
        self._sound |= set(fresh)


def main(rooms: Sequence[str]) -> int:
    """Plant each bug, tell each room's score; the number of bugs that nothing noticed."""
    mutants, tests = load(rooms)
    for name in HEAVY:
        import_module(name)
    killed: dict[str, list[bool]] = defaultdict(list)
    with TemporaryDirectory() as folder:
        tree = Path(folder)
        copy(tree)
        finder = Finder(tree, tests)
        for mutant in mutants:
            found = finder(mutant)
            killed[mutant.room].append(found is not None)
            told = "SURVIVED" if found is None else "killed  "
            print(f"{told} {mutant.room}: {mutant.name} [{found or ''}]", flush=True)
    total = sum(len(found) for found in killed.values())
    dead = sum(sum(found) for found in killed.values())
    scores = {room: f"{sum(found)}/{len(found)}" for room, found in killed.items()}
    print(json.dumps({"mutants": total, "killed": dead, "rooms": scores}))
    return total - dead


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
