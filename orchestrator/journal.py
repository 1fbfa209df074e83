"""The journal: the append-only file that is the truth of a run; state is a fold of it.

One JSON record a line. A record is durable (fsync) before anything acts on it; a torn last line
is what a crash leaves and is cut off.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from orchestrator.events import RECORD, Record
from workers.contract import InputError

JOURNAL_FILE = "journal.jsonl"


class Journal:
    """Writer of one run's journal. Only one process may hold it at a time."""

    def __init__(self, path: Path) -> None:
        """Open for appending, cutting off a torn last line.

        Raises InputError where the folder cannot be written or another driver holds the journal.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "ab")  # noqa: SIM115  (held open for the life of the run)
        except OSError as error:
            raise InputError(
                f"run folder {path.parent}: cannot write there ({error.strerror}); give a "
                "writable folder with --run-dir"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise InputError(
                f"run folder {path.parent}: another driver is running it; wait for it or stop it"
            ) from error
        self._file.truncate(_whole_length(path))
        self._file.seek(0, os.SEEK_END)

    @property
    def offset(self) -> int:
        """Length of the journal in bytes: everything before it is durable."""
        return self._file.tell()

    def append(self, *records: Record) -> None:
        """Append and fsync: returns when the records are durable."""
        self._file.write(b"".join(RECORD.dump_json(record) + b"\n" for record in records))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read(path: Path, offset: int = 0) -> Iterator[tuple[Record, int]]:
    """Records from byte ``offset`` on, each with the offset after it; stops at a torn last line.

    Raises InputError naming the byte where a whole line is not a record.
    """
    if not path.is_file():
        raise InputError(f"{path}: no journal there; give the folder of a run")
    with open(path, "rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                record = RECORD.validate_json(line)
            except ValidationError as error:
                raise InputError(
                    f"{path}: byte {offset} is not a journal record "
                    f"({error.errors()[0]['msg']}); it was written by another version or damaged"
                ) from error
            offset += len(line)
            yield record, offset


def _whole_length(path: Path) -> int:
    """Bytes up to the end of the last whole line."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            cut = file.read(end - start).rfind(b"\n")
            if cut >= 0:
                return start + cut + 1
            end = start
    return 0
