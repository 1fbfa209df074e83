"""Checkpoints that are damaged or gone when a lane is to be opened: an older one does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.beginning import begin, joined, takeover
from orchestrator.config.run import RunConfig
from orchestrator.core.actions import ApplyEdit, Evaluate, OpenLane
from orchestrator.core.controller import fold
from orchestrator.core.events import EvaluationDone, WorkFailed
from orchestrator.core.journal import Journal, read
from orchestrator.core.records import Record
from orchestrator.core.state import RunState
from orchestrator.driver import Driver, Interrupted
from orchestrator.report.history import report
from tests.fakes import tiny
from tests.local import LocalExecutor
from workers.contract import CheckpointRef

CHANGES: dict[str, Any] = {
    "stream": {"kind": "split", "dataset": "digits", "classes_per_task": 5, "train_samples": 96},
    "training": {"intervals": 2, "steps": 4, "batch": 16},
    "policies": {"growth": "periodic"},
    "checkpoint_every": 1,
}


@dataclass(frozen=True)
class Came:
    """What a driver came to."""

    state: RunState
    records: list[Record]
    executor: LocalExecutor


def drive(folder: Path, config: RunConfig, stop_after: int = 0, resumed: bool = False) -> Came:
    """Run until ``stop_after`` records, 0 = to the end; ``resumed``: as a second driver."""
    told: list[Record] = []

    def stop(record: Record) -> None:
        told.append(record)
        if len(told) == stop_after:
            raise Interrupted("the test")

    executor, journal = LocalExecutor(folder / "checkpoints"), Journal(folder / "journal.jsonl")
    driver = Driver(config, journal, executor, (stop,))
    driver.run(*([takeover(2, 0)] if resumed else [begin(config, "run"), joined(2, 0)]))
    journal.close()
    records = [record for record, _ in read(journal.path)]
    assert fold(records)[0] == driver.state
    return Came(driver.state, records, executor)


def ends(state: RunState) -> dict[str, dict[int, str]]:
    return {
        name: {index: end.checkpoint.digest for index, end in lane.ends.items()}
        for name, lane in state.lanes.items()
    }


def flipped(ref: CheckpointRef) -> None:
    path = Path(ref.uri) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 16
    path.write_bytes(data)


def cut(ref: CheckpointRef) -> None:
    path = Path(ref.uri) / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:40])


DAMAGE: dict[str, Callable[[CheckpointRef], Any]] = {
    "a flipped bit": flipped,
    "a cut file": cut,
    "gone": lambda ref: shutil.rmtree(ref.uri),
    "without its state": lambda ref: (Path(ref.uri) / "state.json").unlink(),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Came:
    return drive(tmp_path_factory.mktemp("whole"), tiny(**CHANGES))


@pytest.mark.parametrize(("records", "lost"), [(8, 1), (12, 1), (12, 2), (12, 9), (18, 2)])
@pytest.mark.parametrize("damage", list(DAMAGE))
def test_an_older_checkpoint_does_and_the_bits_are_the_same(
    whole: Came, tmp_path: Path, damage: str, records: int, lost: int
) -> None:
    """``lost``: how many of the newest are damaged; 9 = all of them."""
    if damage != "a flipped bit" and (records, lost) != (12, 1):
        pytest.skip("each damage once")
    config = tiny(**CHANGES)
    state = drive(tmp_path, config, stop_after=records).state
    (lane,) = state.lanes.values()
    there = sorted(
        [*(end.checkpoint for end in lane.ends.values()), *lane.saves], key=lambda ref: ref.seq
    )
    assert there[-1] == lane.base
    for ref in there[-lost:]:
        DAMAGE[damage](ref)
    came = drive(tmp_path, config, resumed=True)
    assert came.state.status == "done"
    assert ends(came.state) == ends(whole.state)
    failed = [r.event for r in came.records if isinstance(r.event, WorkFailed)]
    failures = [event for event in failed if not event.scoring]
    assert {event.kind for event in failures} == {"checkpoint_lost"}
    opened = [one for one in came.executor.performed if isinstance(one, OpenLane)]
    assert len(opened) == len(failures) + 1, "one by one, from the newest"
    applied = {one.edit.id for one in came.executor.performed if isinstance(one, ApplyEdit)}
    decided = [edit.id for record in came.records for edit in record.edits]
    assert len(decided) == len(set(decided)), "no edit is decided again"
    assert applied <= set(decided)
    (found,) = report(came.records)["lanes"]
    (wanted,) = report(whole.records)["lanes"]
    assert found["matrix"] == wanted["matrix"]
    assert found["metrics"] == wanted["metrics"]


@pytest.mark.parametrize("index", [-1, 0, 1])
def test_a_model_that_is_lost_before_it_was_scored_is_made_again(
    whole: Came, tmp_path: Path, index: int
) -> None:
    """Where the lane itself needs it no more too: after the last stage nothing opens it."""
    config = tiny(**CHANGES)
    scored = next(
        n
        for n, record in enumerate(whole.records, 1)
        if isinstance(record.event, EvaluationDone) and record.event.index == index
    )
    state = drive(tmp_path, config, stop_after=scored - 1).state
    ((key, ref),) = state.evaluations.items()
    assert key[1] == index
    flipped(ref)
    came = drive(tmp_path, config, resumed=True)
    assert came.state.status == "done"
    assert ends(came.state) == ends(whole.state)
    told = [r.event for r in came.records if isinstance(r.event, WorkFailed)]
    assert "model_lost" in {event.kind for event in told}
    (found,), (wanted,) = report(came.records)["lanes"], report(whole.records)["lanes"]
    for part in ("matrix", "initial", "validation", "metrics"):
        assert found[part] == wanted[part], part


def test_a_model_that_is_lost_again_and_again_ends_as_the_budget_says(
    whole: Came, tmp_path: Path
) -> None:
    """What damages every copy is met as often as an evaluation may fail, and no oftener."""
    config = tiny(**CHANGES, failures={"evaluation": {"retries": 1, "then": "fail_lane"}})

    class Damaging(LocalExecutor):
        def perform(self, action: Any) -> None:
            if isinstance(action, Evaluate) and action.index == 1:
                flipped(action.checkpoint)
            super().perform(action)

    executor, journal = Damaging(tmp_path / "checkpoints"), Journal(tmp_path / "journal.jsonl")
    assert Driver(config, journal, executor).run(begin(config, "run"), joined(2, 0)) == "failed"
    journal.close()
    failed = [record.event for record, _ in read(journal.path)]
    assert [e.kind for e in failed if isinstance(e, WorkFailed)] == ["model_lost", "model_lost"]


def test_it_is_told(whole: Came, tmp_path: Path) -> None:
    config = tiny(**CHANGES)
    (lane,) = drive(tmp_path, config, stop_after=12).state.lanes.values()
    assert lane.base is not None
    flipped(lane.base)
    came = drive(tmp_path, config, resumed=True)
    (event,) = [r.event for r in came.records if isinstance(r.event, WorkFailed)]
    assert f"checkpoint {lane.base.uri}: contents hash to" in event.message
