"""What is durable: the journal's writes, what a failed one leaves, and what a tracker shows."""

from __future__ import annotations

import errno
from io import FileIO
from pathlib import Path

import pytest

from orchestrator.core.append_only import AppendOnly, Disk
from orchestrator.core.events import Record, RunInterrupted
from orchestrator.core.journal import JOURNAL_FILE, Journal, read
from orchestrator.tracking.store import Store
from orchestrator.tracking.tracker import Tracker
from tests.journals import story, write
from tests.simulation import pages
from tests.simulation.server import Server
from workers.contract import RunError


class Full(Disk):
    """Takes three bytes at a time, and so many in all."""

    def __init__(self, room: int) -> None:
        self.room, self.synced, self.folders = room, 0, 0

    def write(self, file: FileIO, data: bytes) -> int:
        taken = min(3, len(data), self.room)
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= taken
        return super().write(file, data[:taken])

    def sync(self, file: FileIO) -> None:
        self.synced += 1
        super().sync(file)

    def sync_folder(self, folder: Path) -> None:
        self.folders += 1
        super().sync_folder(folder)


def test_short_writes_go_on_and_a_new_name_is_durable(tmp_path: Path) -> None:
    disk = Full(100)
    file = AppendOnly(tmp_path / "new" / "a", disk)
    assert disk.folders == 1
    file.append(b"0123456789")
    assert (disk.synced, file.size) == (1, 10)
    file.close()
    assert (tmp_path / "new" / "a").read_bytes() == b"0123456789"
    AppendOnly(tmp_path / "new" / "a", disk).close()
    assert disk.folders == 1


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL_FILE
    disk = Full(100)
    journal = Journal(path, disk=disk)
    first = Record(event=RunInterrupted(at=0.0, reason="x"))
    journal.append(first)
    whole = path.read_bytes()
    disk.room = 9
    with pytest.raises(RunError, match=r"No space left on device.*growstage resume"):
        journal.append(first)
    assert path.read_bytes() == whole
    assert journal.offset == len(whole)
    disk.room = 1000
    journal.append(first)
    journal.close()
    assert len(list(read(path))) == 2


def test_a_tail_of_a_writer_that_was_killed_is_made_durable(tmp_path: Path) -> None:
    path = write(tmp_path / "run", story())
    disk = Full(0)
    journal = Journal(path, disk=disk)
    assert disk.synced == 1
    assert journal.offset == path.stat().st_size
    journal.close()


def test_only_what_is_durable_is_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "run", story())
    offsets = [offset for _, offset in read(path)]
    server, durable = Server(), offsets[9]
    store = Store(path.parent, "http://x", connect=server.connect)
    tracker = Tracker(path.parent, "http://x", store, drawn=pages, until=lambda: durable)
    assert tracker.project() == offsets[9]
    assert tracker.project() == offsets[9]
    durable = offsets[-1]
    assert tracker.project() == offsets[-1]
    whole = Server()
    other = tmp_path / "other"
    other.mkdir()
    (other / JOURNAL_FILE).write_bytes(path.read_bytes())
    Tracker(other, "http://x", Store(other, "http://x", whole.connect), drawn=pages).project()
    assert server.shown() == whole.shown()
