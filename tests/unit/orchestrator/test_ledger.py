"""What the ledger remembers of one store, and tells of the store written to last."""

from __future__ import annotations

from pathlib import Path

from orchestrator.tracking.ledger import LEDGER_FILE, Ledger, tracked_offset


def test_the_offset_is_that_of_the_store_written_to_last(tmp_path: Path) -> None:
    assert tracked_offset(tmp_path) == 0
    one = Ledger(tmp_path / LEDGER_FILE, "sqlite:///one.db")
    one.advance(100, "a")
    one.created("run:a", "1")
    assert tracked_offset(tmp_path) == 100
    two = Ledger(tmp_path / LEDGER_FILE, "sqlite:///two.db")
    two.created("experiment", "0")
    assert tracked_offset(tmp_path) == 0
    two.advance(40, "b")
    assert tracked_offset(tmp_path) == 40
    one.created("run:b", "2")
    assert tracked_offset(tmp_path) == 100


def test_a_store_that_was_forgotten_shows_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / LEDGER_FILE, "sqlite:///one.db")
    ledger.advance(100, "a")
    ledger.forget()
    assert tracked_offset(tmp_path) == 0
    again = Ledger(tmp_path / LEDGER_FILE, "sqlite:///one.db")
    assert (again.offset, again.ids) == (0, {})
    again.advance(20, "c")
    assert tracked_offset(tmp_path) == 20


def test_a_ledger_of_another_journal_begins_anew_with_its_ids(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / LEDGER_FILE, "sqlite:///one.db")
    ledger.created("run:a", "1")
    ledger.advance(100, "a")
    ledger.rewind()
    again = Ledger(tmp_path / LEDGER_FILE, "sqlite:///one.db")
    assert (again.offset, again.mark, again.ids) == (0, "", {"run:a": "1"})
    assert tracked_offset(tmp_path) == 0
