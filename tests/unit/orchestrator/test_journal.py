"""The journal: durable, torn-tolerant, exclusive."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.events import Record, RunFinished, RunInterrupted
from orchestrator.core.journal import Journal, read
from workers.contract import InputError


def record(number: int) -> Record:
    return Record(event=RunInterrupted(at=float(number), reason="ü" * (number % 7)))


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    written = [record(number) for number in range(5)]
    journal.append(*written[:3])
    middle = journal.offset
    journal.append(*written[3:])
    assert [item for item, _ in read(journal.path)] == written
    assert [item for item, _ in read(journal.path, middle)] == written[3:]
    assert list(read(journal.path))[-1][1] == journal.offset == journal.path.stat().st_size


@settings(deadline=None)
@given(cut=st.integers(min_value=0, max_value=400))
def test_torn_last_line_is_cut_off(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("torn") / "j.jsonl"
    journal = Journal(path)
    journal.append(*(record(number) for number in range(4)))
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n")
    assert [item for item, _ in read(path)] == [record(number) for number in range(kept)]
    again = Journal(path)
    again.append(Record(event=RunFinished(at=9.0, status="done")))
    again.close()
    assert len(list(read(path))) == kept + 1


def test_damaged_whole_line_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"event": {"type": "Nonsense"}}\n')
    with pytest.raises(InputError, match="byte 0 is not a journal record"):
        list(read(path))


def test_second_driver_is_refused(tmp_path: Path) -> None:
    first = Journal(tmp_path / "j.jsonl")
    with pytest.raises(InputError, match="another driver"):
        Journal(tmp_path / "j.jsonl")
    first.close()
    Journal(tmp_path / "j.jsonl").close()
