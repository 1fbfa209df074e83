"""Run folders: found below a folder, told apart by state, and read whole."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.core.events import RunStarted
from orchestrator.core.folder import open_folder
from orchestrator.core.hints import resume_command
from orchestrator.core.journal import JOURNAL_FILE, consistent, first_record, last_line, read
from orchestrator.report.history import RunHistory
from workers.contract import InputError
from workers.storage import is_remote

State = Literal["running", "done", "failed", "interrupted", "killed"]
"""``killed``: the journal has no end, and no driver holds it."""
DEPTH = 4
"""Folders below a given one that are looked into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run of a list, from its journal's first record and last line."""

    place: str
    run_id: str
    name: str
    state: State
    lanes: int
    stages: int
    """Stages saved so far, each counted once."""
    planned: int
    """Stages to train."""
    started: float
    """Seconds since the epoch."""
    changed: float
    """When the journal grew last, in seconds since the epoch."""

    @property
    def advice(self) -> str:
        """What to do about a run that goes on no more; empty where nothing is left."""
        again = resume_command(self.place)
        if self.state == "killed":
            return f"no driver alive; resume with: {again}"
        return f"resume with: {again}" if self.state in ("interrupted", "failed") else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run read whole."""

    place: str
    path: Path
    """Folder on this machine that holds its journal."""
    history: RunHistory
    state: State
    changed: float
    """Time of its last record, in seconds since the epoch."""

    @property
    def started(self) -> RunStarted:
        assert self.history.started is not None
        return self.history.started


def state_of(path: Path, status: str) -> State:
    """A run's state: its status in the journal, and ``killed`` where that says it runs and no
    driver holds it."""
    if status in ("done", "failed", "interrupted"):
        return status  # type: ignore[return-value]
    return "running" if _held(path / JOURNAL_FILE) else "killed"


def _held(journal: Path) -> bool:
    """Whether a driver holds the journal; asked with a shared lock, which is let go at once."""
    with open(journal, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def open_run(place: str | Path) -> Run:
    """The run in a folder; InputError where no journal is there."""
    folder = open_folder(place)
    if first_record(folder.path) is None:
        raise InputError(f"{place}: no journal there; give the folder of a run")
    history, changed = RunHistory(), 0.0
    with consistent(folder.path / JOURNAL_FILE):
        for record, _ in read(folder.path / JOURNAL_FILE):
            history.add(record)
            changed = record.event.at
    return Run(
        place=folder.place,
        path=folder.path,
        history=history,
        state=state_of(folder.path, history.status),
        changed=changed,
    )


def open_runs(places: Iterable[str | Path]) -> list[Run]:
    """The runs in these folders; one that holds run folders (a sweep's) stands for all of them.

    Raises InputError where a folder holds none.
    """
    found: dict[str, Run] = {}
    for place in places:
        inside = [place] if is_remote(str(place)) else list(folders(Path(place)))
        if not inside:
            raise InputError(f"{place}: no run there; give the folder of a run, or of several")
        for one in inside:
            run = open_run(one)
            found.setdefault(run.place, run)
    return list(found.values())


def folders(root: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Run folders at or below ``root``, in order of their names; none lies inside another."""
    if (root / JOURNAL_FILE).is_file():
        yield root
    elif depth and root.is_dir():
        for inside in sorted(root.iterdir()):
            if inside.is_dir() and not inside.is_symlink() and inside.name != "mlartifacts":
                yield from folders(inside, depth - 1)


def listed(root: Path) -> list[RunRow]:
    """The runs at or below a folder, oldest first; a journal that cannot be read is left out."""
    rows = []
    for folder in folders(root):
        with suppress(InputError), consistent(folder / JOURNAL_FILE):
            rows.append(_row(folder))
    return sorted(rows, key=lambda row: row.started)


def _row(folder: Path) -> RunRow:
    started = first_record(folder)
    if started is None:
        raise InputError(f"{folder}: its journal has no whole record")
    lanes = started.plan.lanes
    journal = folder / JOURNAL_FILE
    saved = set()
    with open(journal, "rb") as file:
        for text in file:
            if b'"type":"CheckpointSaved"' in text and text.endswith(b"\n"):
                event = json.loads(text)["event"]
                if event["final"] and event["index"] >= 0:
                    saved.add((event["lane"], event["index"]))
    _, text = last_line(journal)
    last = json.loads(text)["event"]
    status = {"RunFinished": last.get("status"), "RunInterrupted": "interrupted"}.get(last["type"])
    taken = sum(0 if lane.stem is None else lane.stem.stages for lane in lanes)
    return RunRow(
        place=str(folder),
        run_id=started.run_id,
        name=started.name,
        state=state_of(folder, status or "running"),
        lanes=len(lanes),
        stages=len(saved),
        planned=sum(lane.stages for lane in lanes) - taken,
        started=started.at,
        changed=last["at"],
    )


def ago(moment: float, now: float | None = None) -> str:
    """How long ago, as people say it: ``40 s ago``, ``3 h ago``, ``2 days ago``."""
    seconds = max(0.0, (time.time() if now is None else now) - moment)
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (unit != "days" and seconds >= size):
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
