"""Files that are no MLflow store, or were one: told at once and with the cure."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.tracking.files import unreadable
from orchestrator.tracking.tracker import print_lineage
from workers.contract import InputError


def uri(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A database of some pages."""
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path)) as made:
        made.execute("create table runs (id integer primary key, name text)")
        made.executemany("insert into runs (name) values (?)", [("x" * 100,)] * 500)
        made.commit()
    return path


def test_a_whole_store_and_none_yet_are_taken(store: Path) -> None:
    assert unreadable(uri(store)) is None
    assert unreadable(uri(store.with_name("new.db"))) is None
    assert unreadable("http://127.0.0.1:1") is None


def test_a_store_that_somebody_holds_is_left_to_mlflow(store: Path) -> None:
    with closing(sqlite3.connect(store, isolation_level=None)) as holder:
        holder.execute("begin exclusive")
        assert unreadable(uri(store)) is None


@pytest.mark.parametrize("kept", [50, 100, 4096, 20_000, 40_000])
def test_a_truncated_store_is_told(store: Path, kept: int) -> None:
    store.write_bytes(store.read_bytes()[:kept])
    with pytest.raises(InputError, match="growstage resume") as caught:
        print_lineage("model", uri(store), as_json=False)
    assert str(store) in str(caught.value)


def test_what_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("hello " * 200)
    (tmp_path / "folder.db").mkdir()
    assert "not a database" in (unreadable(uri(tmp_path / "text.db")) or "")
    assert unreadable(uri(tmp_path / "folder.db")) == "it is no file"
    assert "no folder" in (unreadable(uri(tmp_path / "none" / "m.db")) or "")
