"""The journal: durable, torn-tolerant, exclusive."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import session
from orchestrator.beginning import joined, tracking_store
from orchestrator.core.addresses import without_password
from orchestrator.core.events import FORMAT, IntervalDone, RunFinished, RunInterrupted
from orchestrator.core.journal import Journal, first_record, mark_at, read
from orchestrator.core.records import Record, chained
from orchestrator.session import report_of
from orchestrator.tracking.tracker import Tracker
from tests.commands import ROOT
from tests.fakes import tiny
from tests.journals import story, write
from tune_spaces.objective import parse
from tune_spaces.summary import attempts
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


@pytest.mark.parametrize("lost", range(1, 4))
def test_a_record_that_is_missing_is_noticed(tmp_path: Path, lost: int) -> None:
    """Its absence parsed, and a lane went on without an edit that its report did not show."""
    path = write(tmp_path, [record(number) for number in range(5)])
    lines = path.read_bytes().splitlines(keepends=True)
    place = len(b"".join(lines[:lost]))
    path.write_bytes(b"".join(lines[:lost] + lines[lost + 1 :]))
    with pytest.raises(InputError, match=f"byte {place} does not follow the record before it"):
        list(read(path))


def test_a_changed_a_repeated_and_an_exchanged_record_are_noticed(tmp_path: Path) -> None:
    path = write(tmp_path, [record(number) for number in range(4)])
    a, b, c, d = path.read_bytes().splitlines(keepends=True)
    wrong = ([a, b.replace(b'"at":1.0', b'"at":1.5'), c, d], [a, b, b, c, d], [a, c, b, d])
    for lines in wrong:
        path.write_bytes(b"".join(lines))
        with pytest.raises(InputError, match="does not follow the record before it"):
            list(read(path))


@pytest.mark.parametrize(
    "tail", [b"\n", b"\n\n", b"\0\0\0\n", b'{"event":{"ty\n', b'{"a"\n\0\0', b"\r\n", b"17\n"]
)
def test_a_tail_that_no_record_ends_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    """What a loss of power leaves: blocks of zeros, a line end without its line."""
    path = write(tmp_path, [record(number) for number in range(3)])
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert [item for item, _ in read(path)] == [record(number) for number in range(3)]
    journal = Journal(path)
    assert path.read_bytes() == whole
    journal.append(record(3))
    journal.close()
    assert [item for item, _ in read(path)] == [record(number) for number in range(4)]
    path.write_bytes(whole + tail.rstrip(b"\0") + path.read_bytes()[len(whole) :])
    with pytest.raises(InputError, match=f"byte {len(whole)} is not a journal record"):
        list(read(path))


def test_a_line_longer_than_what_is_read_at_once_is_found(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    long = Record(event=RunInterrupted(at=1.0, reason="x" * 300_000))
    for item in (record(0), long, record(2), long):
        journal = Journal(path)
        journal.append(item)
        journal.close()
    assert [item for item, _ in read(path)] == [record(0), long, record(2), long]
    ends = [end for _, end in read(path)]
    assert [mark_at(path, end) is not None for end in ends] == [True] * 4
    assert mark_at(path, ends[1] - 1) is None
    assert mark_at(path, ends[-1] + 1) is None
    assert [item for item, _ in read(path, ends[1], mark_at(path, ends[1]))] == [record(2), long]
    with pytest.raises(InputError, match="does not follow"):
        list(read(path, ends[1], mark_at(path, ends[0])))


def test_second_driver_is_refused(tmp_path: Path) -> None:
    first = Journal(tmp_path / "j.jsonl")
    with pytest.raises(InputError, match="another driver"):
        Journal(tmp_path / "j.jsonl")
    first.close()
    Journal(tmp_path / "j.jsonl").close()


def test_a_journal_of_another_format_is_refused_whoever_reads_it(tmp_path: Path) -> None:
    path = write(tmp_path / "run", story())
    first, _, rest = path.read_text().partition("\n")
    for found, text in ((1, first.replace(f'"format":{FORMAT},', "")), (9, first)):
        text = text.replace(f'"format":{FORMAT}', '"format":9')
        path.write_text(f"{text}\n{rest}")
        message = rf"journal of format {found}, this version reads and writes format {FORMAT}"
        readers: list[Callable[[], Any]] = [
            lambda: list(read(path)),
            lambda: report_of(path.parent),
            lambda: session.resume(path.parent, None, None, True),
            lambda: session.run(tiny(), path.parent, None, None, True),
            lambda: Tracker(path.parent, None)._step(),
            lambda: attempts(tmp_path, parse("acc.final"), 3),
        ]
        (tmp_path / "trials" / "t").mkdir(parents=True, exist_ok=True)
        link = tmp_path / "trials" / "t" / "0"
        link.unlink(missing_ok=True)
        link.symlink_to(path.parent)
        for reader in readers:
            with pytest.raises(InputError, match=message) as caught:
                reader()
            assert "code abc1234" in str(caught.value)
            assert "another folder" in str(caught.value)


class Stopped(Exception):  # noqa: N818
    """The process is killed here."""


@pytest.mark.parametrize("uri", ["sqlite:////elsewhere/mlflow.db", "http://me:secret@host:5000"])
def test_a_run_killed_before_anything_acts_remembers_its_store(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray, workers and MLflow come after the first record; the store used to be forgotten."""
    from orchestrator.cluster import connection

    def killed(*_: Any) -> None:
        raise Stopped

    monkeypatch.setattr(connection, "connect_beside", killed)
    for again in (False, True):  # killed a second time: nothing has acted, nothing is lost
        with pytest.raises(Stopped):
            session.run(tiny(), tmp_path, uri if not again or "@" in uri else None, None, True)
    started = first_record(tmp_path)
    assert started is not None
    assert "secret" not in (tmp_path / "journal.jsonl").read_text()
    if "@" in uri:
        assert started.tracking_uri == without_password(uri) == "http://me:***@host:5000"
        with pytest.raises(InputError, match=r"password is not kept; give it again"):
            session.resume(tmp_path, None, None, True)
        assert tracking_store(tmp_path, uri) == uri
    else:
        assert started.tracking_uri == tracking_store(tmp_path, None) == uri
    assert len(list(read(tmp_path / "journal.jsonl"))) == 1
    assert "shown" not in capsys.readouterr().err
    assert tracking_store(tmp_path, "sqlite:////third.db") == "sqlite:////third.db"
    assert "from now on it is shown, from its beginning, in" in capsys.readouterr().err


def test_a_run_that_nothing_has_acted_in_is_begun_anew_with_another_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A config whose lanes do not fit the cluster may be mended in the same folder."""
    from orchestrator.cluster import connection

    def killed(*_: Any) -> None:
        raise Stopped

    monkeypatch.setattr(connection, "connect_beside", killed)
    for config in (tiny(), tiny(seed=3)):
        with pytest.raises(Stopped):
            session.run(config, tmp_path, None, None, True)
    started = first_record(tmp_path)
    assert started is not None
    assert started.config_digest == tiny(seed=3).digest
    Journal(tmp_path / "journal.jsonl").append(Record(event=joined(2, 0)))
    with pytest.raises(InputError, match="its journal belongs to config"):
        session.run(tiny(), tmp_path, None, None, True)


def test_an_edit_of_an_unknown_kind_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, story())
    path.write_text(path.read_text().replace('"kind":"grow"', '"kind":"nowhere:Edit"'))
    with pytest.raises(InputError, match="cannot import 'nowhere:Edit'"):
        list(read(path))


def test_a_loss_that_is_no_number_does_not_lose_the_journal(tmp_path: Path) -> None:
    """It was written as null, and nobody could read, show or resume the run again."""
    told = next(r for r in story() if isinstance(r.event, IntervalDone))
    assert isinstance(told.event, IntervalDone)
    metrics = {"loss": math.nan, "peak": math.inf}
    odd = replace(
        told, event=replace(told.event, report=replace(told.event.report, metrics=metrics))
    )
    odd = replace(odd, memory={"growth": [math.nan, -math.inf, {"1": 2}]})
    path = write(tmp_path, [odd])
    ((found, _),) = read(path)
    assert repr(found) == repr(odd)


def test_a_value_that_no_journal_can_hold_is_not_written(tmp_path: Path) -> None:
    path = write(tmp_path, story())
    journal, whole = Journal(path), path.read_bytes()
    with pytest.raises(TypeError, match="set is not JSON"):
        journal.append(Record(event=record(1).event, memory={"growth": {1, 2}}))
    journal.close()
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("found", "message"),
    [('"grow"', "an edit must be a table"), ('{"kind":"pathlib:Path"}', "is no Edit")],
)
def test_what_stands_in_place_of_an_edit_is_told(tmp_path: Path, found: str, message: str) -> None:
    lines, _ = chained([story()[0], record(1)])
    first, second = lines.splitlines(keepends=True)
    path = tmp_path / "j.jsonl"
    path.write_bytes(first + second.replace(b'"edits":[]', f'"edits":[{found}]'.encode()))
    with pytest.raises(InputError, match=message):
        list(read(path))


KILLED = """
import shutil, sys
for name in ("ray", "mlflow"):
    sys.modules[name] = None  # whoever imports it is stopped there
from orchestrator import session
from orchestrator.core.folder import open_folder
from orchestrator.core.journal import first_record
from tests.fakes import tiny
try:
    session.run(tiny(), sys.argv[1], sys.argv[2], None, True)
except ImportError as error:
    print(error.name)
folder = open_folder(sys.argv[1])
if "://" in sys.argv[1]:
    shutil.rmtree(folder.path)  # another machine
    folder = open_folder(sys.argv[1])
print(first_record(folder.path).tracking_uri)
"""


@pytest.mark.parametrize("place", ["run", "memory://bucket/run"])
def test_the_first_record_is_there_before_ray_and_mlflow(tmp_path: Path, place: str) -> None:
    command = [sys.executable, "-c", KILLED, place, "http://me:secret@host/x?token=t0&a=b"]
    told = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    told["GROWSTAGE_OPS"] = "off"  # their cache is elsewhere now
    done = subprocess.run(command, cwd=tmp_path, env=told, capture_output=True, text=True)
    assert done.stdout.split() == ["ray", "http://me:***@host/x?token=***&a=b"], done.stderr
