"""A trial that goes on from another's model: the history it is given is one the driver accepts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.beginning import begin, joined, takeover
from orchestrator.core.actions import OpenLane, RunInterval
from orchestrator.core.controller import fold
from orchestrator.core.events import CheckpointSaved
from orchestrator.core.journal import Journal, read
from orchestrator.driver import Driver
from orchestrator.report.history import report
from tests.fakes import FakeExecutor
from tests.unit.tune_spaces.test_shared import config
from tune_spaces.inherit import inherited
from workers.contract import CheckpointRef


def donor(folder: Path) -> Path:
    """A finished trial that adds one expert a stage; its worker was lost once."""
    path = folder / "donor" / "journal.jsonl"
    journal = Journal(path)
    lose = FakeExecutor(
        lambda action, seen: (
            "worker_lost"
            if isinstance(action, RunInterval) and action.seq == 8 and seen == 1
            else None
        )
    )
    settings = config(add=1)
    assert Driver(settings, journal, lose).run(begin(settings, "donor"), joined(1, 0)) == "done"
    journal.close()
    return path


@pytest.mark.parametrize("stages", [1, 3, 5])
def test_history_up_to_a_stage_and_on_with_other_settings(tmp_path: Path, stages: int) -> None:
    settings = config(add=2)
    copies: list[CheckpointRef] = []

    def adopt(ref: CheckpointRef) -> CheckpointRef:
        copies.append(ref)
        return replace(ref, uri="adopted")

    source = donor(tmp_path)
    first = begin(settings, "heir")
    records = inherited(first, "donor", (r for r, _ in read(source)), stages, adopt)
    assert len(copies) == 1
    journal = Journal(tmp_path / "heir" / "journal.jsonl")
    journal.append(*records)
    inner = FakeExecutor()
    driver = Driver(settings, journal, inner)
    assert driver.run(takeover(1, 0)) == "done"
    journal.close()
    opened = [action for action in inner.performed if isinstance(action, OpenLane)]
    assert [action.checkpoint.uri if action.checkpoint else None for action in opened] == (
        ["adopted"]
    )
    told = report(record for record, _ in read(journal.path))["lanes"][0]
    grown = [[edit["experts"] for edit in stage["edits"]] for stage in told["stages"]]
    own = [min(6, stages + 2 * k) for k in range(1, 6 - stages)]
    expected = [k + 1 if k < stages else own[k - stages] for k in range(1, 5)]
    assert [experts[0] for experts in grown[1:] if experts] == [
        value for index, value in enumerate(expected) if index == 0 or value != expected[index - 1]
    ]
    origins = [stage["adopted_from"] for stage in told["stages"]]
    assert origins == ["donor"] * stages + [None] * (5 - stages)
    ids = [stage["id"] for stage in told["stages"]]
    assert [stage["parent"] for stage in told["stages"]] == [None, *ids[:-1]]
    assert len(told["matrix"]) == 5


def test_the_history_alone_leads_to_the_next_stage(tmp_path: Path) -> None:
    settings = config(add=2)
    source = donor(tmp_path)
    records = inherited(
        begin(settings, "heir"), "donor", (r for r, _ in read(source)), 2, lambda ref: ref
    )
    state, _ = fold(records)
    (lane,) = state.lanes.values()
    assert lane.index == 2
    assert lane.parent is not None
    assert lane.model.experts == 2
    assert sum(isinstance(r.event, CheckpointSaved) for r in records) == 3
