"""Runs of a folder: what state each is in, and what the terminal says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.core.journal import JOURNAL_FILE, Journal
from orchestrator.report import comparing
from orchestrator.report.runs import ago, listed, open_run, open_runs
from tests.journals import story, write
from workers.contract import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two runs: one that ended, and one whose driver is gone; and a folder that is none."""
    write(tmp_path / "sweep" / "done", story())
    write(tmp_path / "cut", story(run_id="cut")[:20])
    (tmp_path / "other").mkdir()
    return tmp_path


def test_a_run_without_end_and_driver_was_killed(folder: Path) -> None:
    rows = {Path(row.place).name: row for row in listed(folder)}
    assert {name: row.state for name, row in rows.items()} == {"done": "done", "cut": "killed"}
    assert rows["cut"].advice.startswith("no driver alive; resume with: ")
    assert " resume " in rows["cut"].advice
    assert rows["done"].advice == ""
    assert (rows["done"].stages, rows["done"].planned) == (6, 6)
    assert rows["cut"].stages < 6


def test_a_run_that_a_driver_holds_is_running(folder: Path) -> None:
    journal = Journal(folder / "cut" / JOURNAL_FILE)
    assert open_run(folder / "cut").state == "running"
    journal.close()
    assert open_run(folder / "cut").state == "killed"


def test_a_folder_stands_for_the_runs_in_it(folder: Path) -> None:
    assert [run.started.run_id for run in open_runs([folder])] == ["cut", "fashion-0a1b2c3d"]
    assert len(open_runs([folder, folder / "cut"])) == 2
    with pytest.raises(InputError, match="no run there"):
        open_runs([folder / "other"])


def test_the_terminal_fits_80_columns(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = comparing.table([folder])
    comparing.show(found, None, None)
    comparing.show(found, ["acc.final"], "finetune")
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "acc.final" in out
    assert "forgetting.max" in out
    comparing.show_runs(folder, listed(folder))
    assert "no driver alive" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"there are: .*acc\.final"):
        comparing.show(found, ["accuracy"], None)
    with pytest.raises(InputError, match="there are: "):
        comparing.show(found, None, "nobody")


def test_moments_as_people_say_them() -> None:
    assert ago(0.0, 42.0) == "42 s ago"
    assert ago(0.0, 3 * 3600.0) == "3 h ago"
    assert ago(0.0, 3 * 86400.0) == "3 days ago"


def test_a_journal_that_cannot_be_read_is_left_out(folder: Path) -> None:
    (folder / "bad").mkdir()
    (folder / "bad" / JOURNAL_FILE).write_text(json.dumps({"event": {"type": "x"}}) + "\n")
    assert {Path(row.place).name for row in listed(folder)} == {"done", "cut"}
