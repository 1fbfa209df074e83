"""Files that only grow: what was appended is durable once the call returns, or is not there.

``Disk`` is where the world enters: all that may fail, or be lost in a crash, passes through it.
"""

from __future__ import annotations

import fcntl
import os
from io import FileIO
from pathlib import Path

from workers.storage import sync_folder


class Disk:
    """The operating system's files."""

    def open(self, path: Path) -> FileIO:
        """For appending, without a buffer; made where it is not there."""
        return open(path, "ab", buffering=0)

    def lock(self, file: FileIO) -> bool:
        """Hold the file until it is closed, whatever ends this process; False where another does.

        A process that was killed lets go.
        """
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def write(self, file: FileIO, data: bytes) -> int:
        """Bytes that were taken, which may be fewer."""
        return file.write(data)

    def sync(self, file: FileIO) -> None:
        """Make what was written durable."""
        os.fsync(file.fileno())

    def truncate(self, file: FileIO, size: int) -> None:
        file.truncate(size)

    def sync_folder(self, folder: Path) -> None:
        """Make the names in the folder durable."""
        sync_folder(folder)


DISK = Disk()


class AppendOnly:
    """One file, open for appending."""

    def __init__(self, path: Path, disk: Disk = DISK) -> None:
        """Raises OSError where the file cannot be opened for writing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._disk = disk
        self._file = disk.open(path)
        if self.size == 0:  # new, or its maker was killed before this
            disk.sync_folder(path.parent)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._file.seek(0, os.SEEK_END)

    def lock(self) -> bool:
        """Hold the file until it is closed; False where another process does."""
        return self._disk.lock(self._file)

    def cut(self, size: int) -> None:
        """Leave the first ``size`` bytes, and make them durable: a writer that was killed may not
        have come to that."""
        if size < self.size:
            self._disk.truncate(self._file, size)
        self._disk.sync(self._file)

    def append(self, data: bytes) -> None:
        """Durable on return. Raises OSError; then nothing of it is left, unless that fails too."""
        start, rest = self.size, memoryview(data)
        try:
            while rest:
                rest = rest[self._disk.write(self._file, bytes(rest)) :]
            self._disk.sync(self._file)
        except OSError:
            self._disk.truncate(self._file, start)
            raise

    def close(self) -> None:
        self._file.close()
