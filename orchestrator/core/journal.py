"""The journal: the append-only file that is the truth of a run; state is a fold of it.

One JSON record a line, each with the mark of the line before it, so that one that is missing or
changed is noticed. A record is durable (fsync) before anything acts on it; a tail that no record
ends is what a crash leaves and is cut off.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from orchestrator.core.append_only import DISK, AppendOnly, Disk
from orchestrator.core.events import FORMAT, RunStarted
from orchestrator.core.records import RECORD, Record, chained, follows, mark
from workers.contract import InputError, RunError

JOURNAL_FILE = "journal.jsonl"
LINE = re.compile(rb"[^\n]*\n|[^\n]+")
BLOCK = 65536
"""Bytes that are read at a time from the end."""


class Mirror(Protocol):
    """A second place that holds the journal and is written first."""

    def put(self, offset: int, data: bytes) -> None: ...

    def cut(self, end: int) -> None: ...


class Journal:
    """Writer of one run's journal. Only one process may hold it at a time."""

    def __init__(
        self,
        path: Path,
        mirror: Mirror | None = None,
        patience: float = 0.0,
        disk: Disk = DISK,
    ) -> None:
        """Open for appending, cutting off a torn tail.

        ``patience``: seconds to wait for a driver that is just ending to let go.

        Raises InputError where the folder cannot be written or another driver holds the journal.
        """
        self.path = path
        try:
            self._file = AppendOnly(path, disk)
        except OSError as error:
            raise InputError(
                f"run folder {path.parent}: cannot write there ({error.strerror}); give a "
                "writable folder with --run-dir"
            ) from error
        self._mirror = mirror
        self._lock(time.monotonic() + patience)
        end, last = last_line(path)
        torn = path.stat().st_size > end
        try:
            self._file.cut(end)
        except OSError as error:
            self._file.close()
            raise self._unwritable(error) from error
        if mirror is not None and torn:
            mirror.cut(end)
        self._durable = end
        self._after = mark(last) if last else ""

    def _lock(self, deadline: float) -> None:
        while not self._file.lock():
            if time.monotonic() > deadline:
                self._file.close()
                raise InputError(
                    f"run folder {self.path.parent}: another driver is running it; wait for it "
                    "or stop it"
                )
            time.sleep(0.1)

    @property
    def offset(self) -> int:
        """Length of the journal in bytes: everything before it is durable."""
        return self._durable

    def append(self, *records: Record) -> None:
        """Append and fsync: returns when the records are durable.

        Raises RunError where they cannot be made so: then nothing may act on them.
        """
        data, after = chained(records, self._after)
        if self._mirror is not None:
            self._mirror.put(self.offset, data)
        try:
            self._file.append(data)
        except OSError as error:
            raise self._unwritable(error) from error
        self._after = after
        self._durable += len(data)

    def _unwritable(self, error: OSError) -> RunError:
        return RunError(
            f"run folder {self.path.parent}: the journal cannot be written ({error.strerror}); "
            "what it holds is safe: mend that, then go on with `growstage resume`"
        )

    def close(self) -> None:
        self._file.close()


def refresh(path: Path, data: bytes) -> None:
    """Make the copy of a journal at ``path`` hold ``data``.

    One that a driver holds is left alone: nothing is newer, and it would be cut under its hands.
    """
    if path.is_file() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        file.truncate(0)
        file.write(data)


def read(path: Path, offset: int = 0, after: str | None = None) -> Iterator[tuple[Record, int]]:
    """Records from byte ``offset`` on, each with the offset after it; stops at a torn tail.

    ``after``: the mark of the line that ends at ``offset``, None = unknown.

    Raises InputError where another format of journal lies there, or naming the byte where a line is
    not a record, or does not follow the one before it.
    """
    if not path.is_file():
        raise InputError(f"{path}: no journal there; give the folder of a run")
    after = "" if offset == 0 else after
    with open(path, "rb") as file:
        file.seek(offset)
        for text in file:
            if offset == 0:
                _check_format(path, text)
            if not text.endswith(b"\n"):
                return
            try:
                record = RECORD.validate_json(text)
            except ValidationError as error:
                if _told(text) is None and all(_told(later) is None for later in file):
                    return
                found = f"is not a journal record ({error.errors()[0]['msg']})"
                raise _damaged(path, offset, found) from error
            if after is not None and not follows(text, after):
                raise _damaged(path, offset, "does not follow the record before it")
            offset, after = offset + len(text), mark(text)
            yield record, offset


def _told(text: bytes) -> dict[str, Any] | None:
    """What a line says; None where it is no whole JSON object, as a crash leaves it."""
    try:
        told = json.loads(text) if text.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _damaged(path: Path, offset: int, found: str) -> InputError:
    return InputError(
        f"{path}: the line at byte {offset} {found}; the journal was damaged there, or written by "
        "another version. Put a copy of it back, or start the run anew in another folder"
    )


@contextmanager
def consistent(path: Path) -> Iterator[None]:
    """What is read inside follows from records: where one does not fit those before it, an
    InputError says so instead of whatever stumbles over it."""
    try:
        yield
    except (LookupError, AssertionError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path}: its records do not fit each other ({type(error).__name__}: {error}); the "
            "journal was changed by hand, or written by another version. Put a copy of it back, or "
            "start the run anew in another folder"
        ) from error


def last_line(path: Path, before: int | None = None) -> tuple[int, bytes]:
    """(where it ends, the line) of the last whole JSON object in a file, or among its first
    ``before`` bytes; (0, nothing) without one."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END) if before is None else before
        window = BLOCK
        while True:
            start = max(0, size - window)
            file.seek(start)
            lines = LINE.findall(file.read(size - start))
            end = size
            for text in reversed(lines if start == 0 else lines[1:]):
                if _told(text) is not None:
                    return end, text
                end -= len(text)
            if start == 0:
                return 0, b""
            window *= 2


def mark_at(path: Path, offset: int) -> str | None:
    """The mark of the line that ends at byte ``offset``; None where none does."""
    if not path.is_file() or path.stat().st_size < offset:
        return None
    end, text = last_line(path, offset)
    return mark(text) if text and end == offset else None


def first_record(run_dir: Path) -> RunStarted | None:
    """What the journal in ``run_dir`` says the run is; None where there is no whole record yet.

    Where it was begun several times before anything acted, the last time counts.
    """
    path, started = run_dir / JOURNAL_FILE, None
    if not path.is_file():
        return None
    for record, _ in read(path):
        if not isinstance(record.event, RunStarted):
            if started is None:
                raise InputError(
                    f"{path}: does not begin with RunStarted; it is not a run's journal"
                )
            break
        started = record.event
    return started


def acted(run_dir: Path) -> bool:
    """Whether the journal holds more than the run's beginning."""
    path = run_dir / JOURNAL_FILE
    return path.is_file() and any(not isinstance(r.event, RunStarted) for r, _ in read(path))


def _check_format(path: Path, first: bytes) -> None:
    """Refuse a journal whose first line says another format than this version's, or none."""
    try:
        event = json.loads(first)["event"]
        found = event.get("format", 1) if event["type"] == "RunStarted" else FORMAT
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return  # not a record at all: the reader says so
    if found != FORMAT:
        code = event.get("code_version", "unknown")
        raise InputError(
            f"{path}: a journal of format {found}, this version reads and writes format {FORMAT}; "
            f"look at it and go on with the version that wrote it (code {code}), or start the run "
            "anew in another folder"
        )
