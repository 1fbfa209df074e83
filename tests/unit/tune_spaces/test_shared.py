"""Trials that begin alike do it once: stories of two trials at one stage store."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count as count_up
from pathlib import Path
from typing import Any

import pytest

from orchestrator.beginning import begin, joined, takeover
from orchestrator.core.actions import (
    Action,
    ApplyEdit,
    CloseLane,
    Evaluate,
    OpenLane,
    RunInterval,
    SaveCheckpoint,
    StartStage,
)
from orchestrator.core.events import CheckpointSaved
from orchestrator.core.journal import Journal, read
from orchestrator.driver import Driver
from orchestrator.report.history import report
from tests.fakes import FakeExecutor, tiny
from tune_spaces.shared import SharingExecutor
from tune_spaces.store import LEASE_S, StageStore

EVERY = {"max_experts": 6}


def config(**growth: Any) -> Any:
    settings = {"kind": "periodic", "max_experts": 6, **growth}
    model = {"head": {"kind": "moe", "hidden": [16]}, "max_experts": 6}
    return tiny(policies={"growth": settings}, model=model)


class Cluster(FakeExecutor):
    """One on which what is asked of a worker that could not open its lane comes to nothing."""

    def perform(self, action: Action) -> None:
        commanded = isinstance(action, StartStage | RunInterval | ApplyEdit | SaveCheckpoint)
        if not commanded or action.lane in self.held:
            super().perform(action)


def run(
    folder: Path,
    store: StageStore,
    name: str,
    fail: Callable[[Action, int], Any] = lambda action, seen: None,
    **growth: Any,
) -> tuple[FakeExecutor, Any]:
    """One trial to its end; returns its fake cluster and its report."""
    journal = Journal(folder / name / "journal.jsonl")
    inner = Cluster(fail)
    driver = Driver(config(**growth), journal, SharingExecutor(inner, store, name))
    assert driver.run(begin(config(**growth), name), joined(1, 0)) == "done"
    journal.close()
    return inner, report(record for record, _ in read(journal.path))


def count(inner: FakeExecutor, kind: type) -> int:
    return sum(isinstance(action, kind) for action in inner.performed)


def adopted(told: Any) -> list[str | None]:
    return [stage["adopted_from"] for stage in told["lanes"][0]["stages"]]


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    return StageStore(str(tmp_path))


def test_the_same_settings_need_no_worker_at_all(tmp_path: Path, store: StageStore) -> None:
    first, one = run(tmp_path, store, "a")
    second, two = run(tmp_path, store, "b")
    assert adopted(one) == [None] * 5
    assert adopted(two) == ["a"] * 5
    assert second.performed == []
    assert one["lanes"][0]["matrix"] == two["lanes"][0]["matrix"]
    assert count(first, SaveCheckpoint) == 6


def test_trials_part_at_their_first_different_edit(tmp_path: Path, store: StageStore) -> None:
    run(tmp_path, store, "a", every=2)
    second, told = run(tmp_path, store, "b", every=3)
    assert adopted(told) == ["a", "a", None, None, None]
    opened = [action for action in second.performed if isinstance(action, OpenLane)]
    assert len(opened) == 1
    assert opened[0].checkpoint is not None
    assert opened[0].checkpoint.uri.endswith(told["lanes"][0]["stages"][1]["checkpoint"]["uri"])
    assert count(second, RunInterval) == 3 * 2
    ids = [stage["id"] for stage in told["lanes"][0]["stages"]]
    assert [stage["parent"] for stage in told["lanes"][0]["stages"]] == [None, *ids[:-1]]


def test_a_lost_worker_is_caught_up_from_the_last_checkpoint(
    tmp_path: Path, store: StageStore
) -> None:
    def lose(action: Action, seen: int) -> Any:
        late = isinstance(action, RunInterval) and action.n == 2
        return "worker_lost" if late and seen == 1 else None

    undisturbed, whole = run(tmp_path, StageStore(str(tmp_path / "other")), "whole")
    inner, told = run(tmp_path, store, "a", fail=lose)
    assert told["lanes"][0]["matrix"] == whole["lanes"][0]["matrix"]
    assert told["lanes"][0]["failures"] > 0
    fingerprints = [
        [edit["fingerprint"] for edit in stage["edits"]] for stage in told["lanes"][0]["stages"]
    ]
    assert fingerprints == [
        [edit["fingerprint"] for edit in stage["edits"]] for stage in whole["lanes"][0]["stages"]
    ]
    assert count(inner, RunInterval) > count(undisturbed, RunInterval)


def test_a_trial_whose_lost_worker_is_not_needed_again_has_none_to_close(tmp_path: Path) -> None:
    """While its worker is lost, another trial finds all the answers that it still needs."""
    store = StageStore(str(tmp_path), clock=count_up(step=2 * LEASE_S).__next__)  # no claim holds

    def overtaken(action: Action, seen: int) -> Any:
        if not isinstance(action, SaveCheckpoint) or action.index >= 0:
            return None
        run(tmp_path, store, "a")
        return "worker_lost"

    inner, told = run(tmp_path, store, "b", fail=overtaken)
    assert adopted(told) == ["a"] * 5
    assert (count(inner, OpenLane), count(inner, CloseLane)) == (1, 0)


def test_a_row_under_way_when_the_worker_is_lost_is_kept(tmp_path: Path, store: StageStore) -> None:
    def fail(action: Action, seen: int) -> Any:
        """The row is asked for again just before the loss is heard of."""
        if isinstance(action, Evaluate) and action.index < 0 and seen == 1:
            return "evaluation"
        return "worker_lost" if isinstance(action, StartStage) and seen == 1 else None

    run(tmp_path, store, "a", fail=fail)
    second, _ = run(tmp_path, store, "b")
    assert second.performed == []


def test_a_lost_checkpoint_of_another_trial_is_made_again(
    tmp_path: Path, store: StageStore
) -> None:
    """The store would answer with it for ever."""
    _, one = run(tmp_path, store, "a", every=2)
    lost = one["lanes"][0]["stages"][1]["checkpoint"]["uri"]
    made: list[Action] = []

    def fail(action: Action, seen: int) -> Any:
        if isinstance(action, SaveCheckpoint) and action.index == 1:
            made.append(action)
        opens = isinstance(action, OpenLane) and action.checkpoint is not None
        return "checkpoint_lost" if opens and action.checkpoint.uri == lost and not made else None

    _, whole = run(tmp_path, StageStore(str(tmp_path / "other")), "whole", every=3)
    _, told = run(tmp_path, store, "b", fail=fail, every=3)
    assert len(made) == 1
    assert adopted(told) == ["a", "a", None, None, None]
    assert told["lanes"][0]["failures"] == 1
    assert told["lanes"][0]["matrix"] == whole["lanes"][0]["matrix"]


def test_a_model_that_is_lost_before_it_was_scored_is_made_again(
    tmp_path: Path, store: StageStore
) -> None:
    made: list[Action] = []

    def fail(action: Action, seen: int) -> Any:
        if isinstance(action, SaveCheckpoint) and action.index == 1:
            made.append(action)
        scored = isinstance(action, Evaluate) and action.index == 1
        return "model_lost" if scored and len(made) == 1 else None

    _, told = run(tmp_path, store, "a", fail=fail)
    assert len(made) == 2
    assert told["lanes"][0]["failures"] == 1


def test_a_resumed_trial_goes_on_at_its_journal(tmp_path: Path, store: StageStore) -> None:
    run(tmp_path, store, "a", every=2)
    path = tmp_path / "a" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    saved = [i for i, text in enumerate(lines) if b'"CheckpointSaved"' in text]
    path.write_bytes(b"".join(lines[: saved[2] + 1]))
    journal = Journal(path)
    inner = FakeExecutor()
    driver = Driver(config(every=2), journal, SharingExecutor(inner, store, "a"))
    assert driver.run(takeover(1, 0)) == "done"
    journal.close()
    assert [type(action).__name__ for action in inner.performed] == ["OpenLane", "CloseLane"]
    assert adopted(report(record for record, _ in read(path))) == [None] * 5  # all its own work


def test_two_trials_at_once_do_not_train_the_same(tmp_path: Path, store: StageStore) -> None:
    assert store.ask("k", "a").verdict == "yours"
    assert store.ask("k", "b").verdict == "wait"
    assert store.ask("other", "b").verdict == "yours"
    store.tell("k", "a", {"type": "X"})
    answer = store.ask("k", "b")
    assert (answer.verdict, answer.run, answer.event) == ("known", "a", {"type": "X"})


def test_claims_of_silent_and_ended_trials_are_void(tmp_path: Path) -> None:
    now = 0.0
    store = StageStore(str(tmp_path), clock=lambda: now)
    store.ask("k", "a")
    now = LEASE_S - 1
    store.renew("a")
    now = 2 * LEASE_S - 2
    assert store.ask("k", "b").verdict == "wait"
    now = 3 * LEASE_S
    assert store.ask("k", "b").verdict == "yours"
    store.drop("b")
    assert store.ask("k", "c").verdict == "yours"


def test_the_store_outlives_its_process(tmp_path: Path, store: StageStore) -> None:
    run(tmp_path, store, "a")
    inner, _ = run(tmp_path, StageStore(str(tmp_path)), "b")
    assert inner.performed == []
    saved = [r.event for r, _ in read(tmp_path / "b" / "journal.jsonl")]
    assert all(e.adopted_from == "a" for e in saved if isinstance(e, CheckpointSaved))
