"""A run, or a search, that a fault disturbs: how it is started, where it stands, its processes."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import psutil

from orchestrator.core.events import LaneOpened, RunFinished
from orchestrator.core.journal import JOURNAL_FILE
from tests.chaos.streams import STREAMS
from tests.commands import Command
from tests.watched import Watched
from tune_spaces.search import SWEEP_FILE
from workers.streams import places

if TYPE_CHECKING:
    from tests.chaos.lab import Lab

MARK = "GROWSTAGE_CHAOS_MARK"
"""Variable that every process of a disturbed run has in its environment."""
ENDS_S, GONE_S = 240.0, 30.0
"""Seconds in which a command ends, and in which its processes are gone after that."""
WORKER = "ray::LaneWorker", "ray::EvaluationWorker", "ray::ImplicitFunc"
"""Beginnings of the titles that Ray gives to our actors."""


@dataclass(slots=True)
class Disturbed:
    """One run that is disturbed, in a folder of its own."""

    lab: Lab
    stream: str
    folder: Path
    random: Random
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    injected: float = 0.0
    """Moment at which the fault came."""
    lost_before: set[int] = field(default_factory=lambda: _lost())
    """Processes that Ray had lost before."""

    @property
    def run_dir(self) -> Path:
        return self.folder / "runs" / "one"

    @property
    def journal(self) -> Path:
        return self.run_dir / JOURNAL_FILE

    def runs(self) -> dict[str, Path]:
        """Folder of each run that is made, by a name that it has however it is disturbed."""
        return {"": self.run_dir}

    def start(self, *more: object, own_ray: bool = False, **env: str) -> Command:
        """The command under way: on the lab's cluster, or with a Ray of its own. It goes on with
        what is in the folder."""
        words = ("run", self.config(), "--run-dir", self.run_dir)
        return self._command("orchestrator", *words, *more, own_ray=own_ray, env=env)

    def resume(self, *more: object, own_ray: bool = False, **env: str) -> Command:
        words = ("resume", self.run_dir)
        return self._command("orchestrator", *words, *more, own_ray=own_ray, env=env)

    def config(self) -> Path:
        """The stream file."""
        path = self.folder / "chaos.toml"
        path.write_text(STREAMS[self.stream].file.replace("TEXTS", str(self.lab.texts)))
        return path

    def _command(
        self, package: str, *words: object, own_ray: bool, env: Mapping[str, str]
    ) -> Command:
        known = {places.ENVIRONMENT: str(self.lab.folder / "data")}
        if not own_ray:
            known["RAY_ADDRESS"] = self.lab.address
        return Command(package, *words, env={MARK: self.mark, **known, **env})

    # ------------------------------------------------------------ moments

    def records(self) -> list[Any]:
        """What the journals say so far."""
        return [record for folder in self.runs().values() for record in Watched(folder).read()]

    def lines(self) -> int:
        paths = (folder / JOURNAL_FILE for folder in self.runs().values())
        return sum(path.read_bytes().count(b"\n") for path in paths if path.exists())

    def somewhere(self, command: Command, first: int = 2, last: int = 3) -> None:
        """Wait until the run has come to a random place: after record ``first``, and at least
        ``last`` records before its end."""
        place = self.random.randint(first, self.lab.whole[self.stream].records - last)
        command.until(lambda: self.lines() >= place)
        time.sleep(self.random.uniform(0.0, 0.05))

    def done(self) -> bool:
        """Whether everything is trained and told."""
        return self.lines() == self.lab.whole[self.stream].records

    def opened(self, command: Command) -> Any:
        """What a lane's worker that is there told when it stood ready."""

        def there() -> list[Any]:
            events = [record.event for record in self.records()]
            told = [event.report for event in events if isinstance(event, LaneOpened)]
            return [report for report in told if report.pid and _alive(report.pid)]

        return command.until(there)[-1]

    def now(self) -> None:
        """The fault comes now."""
        self.injected = time.monotonic()

    # ------------------------------------------------------------ processes

    def processes(self, name: str = "") -> list[int]:
        """Processes of this run whose command line holds ``name``: those that its commands
        started, its workers on the lab's cluster, which serves one at a time, and what Ray started
        and lost: it writes titles over the environment that would tell."""
        here = psutil.Process().children(recursive=True)
        actors = [one.pid for one in here if _command_line(one.pid).startswith(WORKER)]
        own = [pid for pid in psutil.pids() if self._mine(pid)]
        lost = _lost() - self.lost_before
        return [pid for pid in {*actors, *own, *lost} if name in _command_line(pid) and _alive(pid)]

    def _mine(self, pid: int) -> bool:
        # Looked for in all of it, as part may be overwritten: psutil stops there.
        with suppress(OSError):
            return f"{MARK}={self.mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
        return False

    def gone(self) -> None:
        """Raises AssertionError where processes of the run stay; they are ended then."""
        deadline = time.monotonic() + GONE_S
        while left := self.processes():
            if time.monotonic() > deadline:
                told = [f"{pid} {_command_line(pid)[:120]}" for pid in left]
                for pid in left:
                    with suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                raise AssertionError(f"processes are left behind: {told}")
            time.sleep(0.1)


@dataclass(slots=True)
class DisturbedSearch(Disturbed):
    """A search of two trials, which are runs of their own."""

    def runs(self) -> dict[str, Path]:
        """By number of trial and attempt: Tune draws the rest of a trial's name."""
        paths = sorted((self.run_dir / "trials").glob("*/*"))
        return {f"{path.parent.name.rpartition('_')[2]}/{path.name}": path for path in paths}

    def start(self, *more: object, own_ray: bool = False, **env: str) -> Command:
        if (self.run_dir / SWEEP_FILE).exists():
            return self.resume(*more, own_ray=own_ray, **env)
        words = ("growth", "--base", self.config(), "--num-samples", 2, "--scheduler", "none")
        words = (*words, "--sweep-dir", self.run_dir)
        return self._command("tune_spaces", *words, *more, own_ray=own_ray, env=env)

    def resume(self, *more: object, own_ray: bool = False, **env: str) -> Command:
        words = ("--resume", self.run_dir)
        return self._command("tune_spaces", *words, *more, own_ray=own_ray, env=env)

    def done(self) -> bool:
        ends = [record for record in self.records() if isinstance(record.event, RunFinished)]
        return len(ends) == len(self.lab.whole[self.stream].essence)


def until(happened: Callable[[], Any], seconds: float = ENDS_S) -> Any:
    """What ``happened`` says once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return found


def _lost() -> set[int]:
    """Processes with a title by Ray whose parent has ended."""
    orphans = psutil.Process(1).children()
    return {one.pid for one in orphans if _command_line(one.pid).startswith("ray::")}


def _command_line(pid: int) -> str:
    with suppress(psutil.Error):
        return " ".join(psutil.Process(pid).cmdline()).strip()
    return ""


def _alive(pid: int) -> bool:
    with suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
