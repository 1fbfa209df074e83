"""What is durable: the journal's writes, what a failed one leaves, and what a tracker shows."""

from __future__ import annotations

import errno
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.append_only import AppendOnly, Disk
from orchestrator.core.events import RunInterrupted
from orchestrator.core.journal import JOURNAL_FILE, Journal, read
from orchestrator.core.records import Record
from orchestrator.tracking.background import TrackingAway
from orchestrator.tracking.ledger import LEDGER_FILE
from orchestrator.tracking.projection import Projection
from orchestrator.tracking.store import Store
from orchestrator.tracking.tracker import Tracker
from orchestrator.tracking.writes import Write
from tests.journals import story, write
from tests.simulation import pages
from tests.simulation.server import Client, Server
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


class Refusing(Server):
    """Refuses one request of forty-one."""

    asked = 0

    def request(self, work: Any, late: bool = False) -> Any:
        self.asked += 1
        if self.asked % 41 == 0:
            raise OSError("refused")
        return super().request(work, late)


class Counted(Projection):
    """Counts the records that all of its kind took in."""

    records = 0

    def add(self, record: Record) -> list[Write]:
        Counted.records += 1
        return super().add(record)


def test_a_store_that_refuses_again_and_again_has_each_record_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a retry costs does not grow with the journal."""
    monkeypatch.setattr("orchestrator.tracking.tracker.RECORDS", 10)
    monkeypatch.setattr("orchestrator.tracking.tracker.Projection", Counted)
    monkeypatch.setattr(Counted, "records", 0)
    path = write(tmp_path / "run", story())
    server, whole = Refusing(), Server()
    tracker = Tracker(path.parent, "http://x", refused_store(path, server), drawn=pages)
    failures = 0
    while True:
        try:
            offset = tracker.project()
        except TrackingAway:
            failures += 1
        else:
            break
    assert failures > 3
    assert offset == path.stat().st_size
    assert Counted.records == len(list(read(path)))
    other = write(tmp_path / "other", story())
    Tracker(
        other.parent, "http://x", Store(other.parent, "http://x", whole.connect), drawn=pages
    ).project()
    assert server.shown() == whole.shown()


def refused_store(path: Path, server: Refusing) -> Store:
    """A store of a server whose first request is the one after it was connected to."""
    store = Store(path.parent, "http://x", server.connect)
    store.connect()
    return store


def test_a_store_that_was_emptied_meanwhile_is_written_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "run", story()[:12])
    server, whole = Server(), Server()
    store = Store(path.parent, "http://x", server.connect)
    tracker = Tracker(path.parent, "http://x", store, drawn=pages)
    tracker.project()
    server.empty()
    server.new_id("e")  # ids of the store before are not given again
    store.recall()  # as after a failure
    write(tmp_path / "run", story()[12:])
    tracker.project()
    other = write(tmp_path / "other", story())
    again = Store(other.parent, "http://x", whole.connect)
    Tracker(other.parent, "http://x", again, drawn=pages).project()
    assert server.shown() == whole.shown()


def test_an_offset_that_another_journal_was_shown_to_is_not_believed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A record ends there in this journal too: what it stands at tells them apart."""
    path = write(tmp_path / "run", story())
    server, whole = Server(), Server()
    Tracker(
        path.parent, "http://x", Store(path.parent, "http://x", server.connect), drawn=pages
    ).project()
    other = write(tmp_path / "other", story(run_id="fashion-ffffffff"))
    assert other.stat().st_size == path.stat().st_size
    (other.parent / LEDGER_FILE).write_bytes((path.parent / LEDGER_FILE).read_bytes())
    for one in (server, whole):
        folder = (
            other.parent
            if one is server
            else write(tmp_path / "again", story(run_id="fashion-ffffffff")).parent
        )
        Tracker(folder, "http://x", Store(folder, "http://x", one.connect), drawn=pages).project()
    assert "was written for another journal" in capsys.readouterr().err
    found, wanted = server.shown()["runs"], whole.shown()["runs"]
    for key, run in wanted.items():  # of two equal lanes one is counted, which their tags say
        rest = set(run) - {"tags"}
        assert {name: found[key][name] for name in rest} == {name: run[name] for name in rest}
    assert any(run["metrics"] for run in wanted.values())


class Forgetful(Server):
    """Refuses the first request that carries params."""

    refused = 0

    def connect(self, uri: str) -> Client:
        return Hesitant(self)


class Hesitant(Client):
    """A client of such a server."""

    server: Forgetful

    def log_batch(self, run: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        if params and not self.server.refused:
            self.server.refused += 1
            raise OSError("refused")
        super().log_batch(run, metrics, params, tags)


def test_params_that_were_refused_are_written_again(tmp_path: Path) -> None:
    """The ledger knows a run once all of it is there."""
    path = write(tmp_path / "run", story())
    server, whole = Forgetful(), Server()
    tracker = Tracker(
        path.parent, "http://x", Store(path.parent, "http://x", server.connect), drawn=pages
    )
    with pytest.raises(TrackingAway):
        tracker.project()
    tracker.project()
    other = write(tmp_path / "other", story())
    Tracker(
        other.parent, "http://x", Store(other.parent, "http://x", whole.connect), drawn=pages
    ).project()
    assert server.refused == 1
    assert server.shown() == whole.shown()
