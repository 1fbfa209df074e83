"""Journals that released versions wrote, with the reports they gave: read, folded, told alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.config.file import restore
from orchestrator.core.controller import fold
from orchestrator.core.events import FORMAT
from orchestrator.core.journal import first_record, read
from orchestrator.report.history import report
from orchestrator.tracking.projection import Projection
from workers.contract import Json

RECORDED = Path(__file__).resolve().parents[1] / "recorded"
JOURNALS = sorted(RECORDED.glob(f"format{FORMAT}/*.jsonl"))


def test_there_are_some_of_the_present_format() -> None:
    assert len(JOURNALS) >= 4


@pytest.mark.parametrize("path", JOURNALS, ids=lambda path: path.stem)
def test_a_recorded_journal_gives_the_report_of_its_time(path: Path, tmp_path: Path) -> None:
    records = [record for record, _ in read(path)]
    state, _ = fold(records)
    told = report(records)
    assert state.status == told["status"]
    assert_holds(told, json.loads(path.with_suffix(".json").read_text()))
    projection = Projection()
    assert sum(len(projection.add(record)) for record in records) > 0
    (tmp_path / "journal.jsonl").write_bytes(path.read_bytes())
    started = first_record(tmp_path)
    assert started is not None
    assert [lane.name for lane in restore(started.config).lanes] == list(state.lanes)


def assert_holds(told: Json, recorded: Json, where: str = "report") -> None:
    """All that was told then is told now; there may be more."""
    if isinstance(recorded, dict):
        for key, value in recorded.items():
            assert key in told, f"{where}.{key}"
            assert_holds(told[key], value, f"{where}.{key}")
    elif isinstance(recorded, list):
        assert len(told) == len(recorded), where
        for place, value in enumerate(recorded):
            assert_holds(told[place], value, f"{where}.{place}")
    else:
        assert told == recorded, where
