"""Run folders behind a URI: the objects are the truth, the local journal is a copy of them."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from orchestrator.core.events import RunInterrupted
from orchestrator.core.folder import MANY, Segments, here, open_folder
from orchestrator.core.journal import JOURNAL_FILE, read
from tests.journals import story
from workers.contract import CheckpointRef, InputError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return f"memory://{uuid.uuid4().hex}/run"


def moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From now on as on another machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / uuid.uuid4().hex))


def test_a_local_folder_is_itself(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "run")
    assert folder.path == tmp_path / "run"
    assert folder.checkpoints == str(tmp_path / "run" / "checkpoints")
    assert open_folder(f"file://{tmp_path}/run") == folder


def test_the_journal_is_found_on_another_machine(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = list(story())
    journal = open_folder(place).journal()
    for record in records:
        journal.append(record)
    journal.close()
    assert open_folder(place).checkpoints == f"{place}/checkpoints"

    moved(monkeypatch, tmp_path)
    folder = open_folder(place)
    assert [record for record, _ in read(folder.path / JOURNAL_FILE)] == records
    assert len(Segments(place).folder.names()) in (1, len(records))
    journal = folder.journal()
    journal.append(records[0])
    journal.close()
    moved(monkeypatch, tmp_path)
    assert len(list(read(open_folder(place).path / JOURNAL_FILE))) == len(records) + 1


def test_a_copy_that_is_behind_or_ahead_is_replaced(place: str) -> None:
    records = list(story())[:3]
    journal = open_folder(place).journal()
    journal.append(*records)
    journal.close()
    file = open_folder(place).path / JOURNAL_FILE
    whole = file.read_bytes()
    for wrong in (b"", whole[:-10], whole + b"never acted upon\n"):
        file.write_bytes(wrong)
        open_folder(place)
        assert file.read_bytes() == whole


def test_looking_at_a_run_leaves_its_live_driver_s_copy_alone(place: str) -> None:
    records = list(story())[:3]
    journal = open_folder(place).journal()
    journal.append(*records)
    with open(journal.path, "ab") as file:  # what writing it anew would cut
        file.write(b"{")
    newest = journal.path.read_bytes()
    open_folder(place)
    assert journal.path.read_bytes() == newest
    journal.close()
    open_folder(place)
    assert len(list(read(journal.path))) == len(records)
    assert journal.path.read_bytes() == newest[:-1]


def test_a_second_driver_is_refused_before_it_writes(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_folder(place).journal()
    record = next(iter(story()))
    first.append(record)
    moved(monkeypatch, tmp_path)
    second = open_folder(place).journal()
    first.append(record)
    with pytest.raises(InputError, match="another driver"):
        second.append(record)
    first.close()
    second.close()
    assert len(list(read(open_folder(place).path / JOURNAL_FILE))) == 2


def test_many_objects_are_put_together_and_a_crash_at_it_loses_nothing(place: str) -> None:
    journal = open_folder(place).journal()
    line = type(next(iter(story())))(event=RunInterrupted(at=1.0, reason="x"))
    for _ in range(MANY):
        journal.append(line)
    journal.close()
    segments = Segments(place)
    whole = b"".join(segments.folder.read(name) for name in segments.folder.names())
    segments.folder.write("000000000000000.jsonl", whole)  # killed before the rest was removed
    assert segments.pull() == whole
    assert len(segments.folder.names()) == 1
    assert segments.pull() == whole


@pytest.mark.parametrize("kept", [10, -10], ids=["nothing whole", "one record whole"])
def test_an_object_that_a_kill_left_half_written_is_cut(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """As storage that writes piece by piece leaves it; the records behind it are found again."""
    records = list(story())[:4]
    journal = open_folder(place).journal()
    journal.append(records[0])
    torn_at = journal.offset
    journal.append(records[1], records[2])
    journal.close()
    folder = Segments(place).folder
    name = folder.names()[-1]
    assert int(name.partition(".")[0]) == torn_at
    folder.write(name, folder.read(name)[:kept])

    moved(monkeypatch, tmp_path)
    journal = open_folder(place).journal()
    journal.append(records[3])
    journal.close()
    moved(monkeypatch, tmp_path)
    found = [record for record, _ in read(open_folder(place).path / JOURNAL_FILE)]
    assert found == [*records[: 1 if kept > 0 else 2], records[3]]


def test_a_history_is_put_down_whole(place: str) -> None:
    records = list(story())[:4]
    folder = open_folder(place)
    folder.begin(records)
    assert [record for record, _ in read(open_folder(place).path / JOURNAL_FILE)] == records


def test_checkpoints_are_found_where_their_folder_was_moved(tmp_path: Path) -> None:
    run, moved = tmp_path / "run", tmp_path / "elsewhere" / "run"
    kept = run / "checkpoints" / "lane" / "0-final"
    kept.mkdir(parents=True)

    def at(uri: str) -> CheckpointRef:
        return CheckpointRef(uri=uri, digest="d", seq=3, stage="s", bytes=1)

    ref = at(str(kept))
    assert here(ref, str(run / "checkpoints")) is ref
    moved.parent.mkdir()
    run.rename(moved)
    found = here(ref, str(moved / "checkpoints"))
    assert Path(found.uri) == moved / "checkpoints" / "lane" / "0-final"
    assert found.digest == ref.digest
    lost = at(f"{run}/checkpoints/gone")
    assert here(lost, str(moved / "checkpoints")) is lost
    outside = at(f"{run}/other")
    assert here(outside, str(moved / "checkpoints")) is outside
    remote = at("s3://b/checkpoints/x")
    assert here(remote, str(moved / "checkpoints")) is remote
