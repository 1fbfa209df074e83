"""Where a run lives: a folder on this machine, or one behind a URI with its journal copied here.

Behind a URI the journal is a row of objects, each named by the byte it starts at; they are the
truth, the local file is what the driver, the tracker and the report read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.core.journal import JOURNAL_FILE, Journal, refresh
from orchestrator.core.records import Record, chained
from workers.contract import CheckpointRef, InputError, digest
from workers.storage import RemoteFolder, is_remote, join, local_path

CHECKPOINTS = "checkpoints"
SEGMENTS = "journal"
STREAM_FILE = "stream.toml"
"""The stream file as it was run."""
MANY = 64
"""Objects from which on a journal is put together into one when it is opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """A run's place and the folder on this machine that holds its journal and ledger."""

    place: str
    """Path or URI, as people name it."""
    path: Path

    @property
    def checkpoints(self) -> str:
        """Where workers put checkpoints: every node must reach it."""
        return join(self.place, CHECKPOINTS)

    def journal(self, patience: float = 0.0) -> Journal:
        """The journal, held for writing; raises InputError as Journal does."""
        mirror = Segments(self.place) if is_remote(self.place) else None
        return Journal(self.path / JOURNAL_FILE, mirror, patience)

    def put(self, name: str, data: bytes) -> None:
        """Put a file beside the journal, whole; ``name`` may have folders before it."""
        if is_remote(self.place):
            head, _, last = name.rpartition("/")
            RemoteFolder(join(self.place, head) if head else self.place).write(last, data)
            return
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}")
        temporary.write_bytes(data)
        os.replace(temporary, path)

    def begin(self, records: Iterable[Record]) -> None:
        """Put a journal that begins with ``records`` into the empty folder, whole or not at all."""
        data, _ = chained(records)
        if is_remote(self.place):
            Segments(self.place).put(0, data)
        self.path.mkdir(parents=True, exist_ok=True)
        temporary = self.path / f".{JOURNAL_FILE}"
        temporary.write_bytes(data)
        os.replace(temporary, self.path / JOURNAL_FILE)


class Segments:
    """A journal's bytes as objects behind a URI, one for each append."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.folder = RemoteFolder(join(place, SEGMENTS))

    def put(self, offset: int, data: bytes) -> None:
        """Make ``data``, which starts at byte ``offset``, durable.

        Raises InputError where another driver has written there.
        """
        name = _name(offset)
        if self.folder.holds(name):
            raise InputError(
                f"run folder {self.place}: another driver is writing its journal; wait for it or "
                "stop it, then resume"
            )
        self.folder.write(name, data)

    def pull(self) -> bytes:
        """The whole journal; a segment that others were put together into counts once, and what a
        killed driver left of a record ends where the next segment begins."""
        names = self._names()
        whole = b""
        for name in names:
            whole = whole[: _offset(name)] + self.folder.read(name)
        if len(names) >= MANY:
            self.folder.replace(_name(0), whole)
            for name in names[1:]:
                self.folder.remove(name)
        return whole

    def cut(self, end: int) -> None:
        """Drop what lies behind byte ``end``: a torn tail, whose place the next record takes."""
        for name in reversed(self._names()):
            kept = end - _offset(name)
            if kept > 0:
                self.folder.replace(name, self.folder.read(name)[:kept])
                return
            self.folder.remove(name)

    def _names(self) -> list[str]:
        return [name for name in self.folder.names() if not name.startswith(".")]


def open_folder(place: str | os.PathLike[str]) -> RunFolder:
    """The run folder called ``place``, its journal brought here where it lies behind a URI."""
    text = str(place)
    if not is_remote(text):
        path = local_path(text).resolve()
        return RunFolder(place=str(path), path=path)
    path = _cache() / digest(text)
    whole = Segments(text).pull()
    if whole:
        refresh(path / JOURNAL_FILE, whole)
    return RunFolder(place=text, path=path)


def here(ref: CheckpointRef, checkpoints: str) -> CheckpointRef:
    """``ref`` as it lies now: a run folder that was moved has taken its ``checkpoints`` along."""
    if is_remote(ref.uri) or local_path(ref.uri).exists():
        return ref
    inside = ref.uri.rpartition(f"/{CHECKPOINTS}/")[2]
    moved = join(checkpoints, inside)
    there = inside != ref.uri and (is_remote(moved) or local_path(moved).exists())
    return replace(ref, uri=moved) if there else ref


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "growstage"


def _name(offset: int) -> str:
    return f"{offset:015d}.jsonl"


def _offset(name: str) -> int:
    return int(name.partition(".")[0])
