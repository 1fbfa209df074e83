"""Lanes of two workers, really trained in two processes: the same decisions as alone, the same
bits on both, and the same bits again after one of them was killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.driver import Driver, begin
from orchestrator.events import (
    Action,
    ApplyEdit,
    CheckpointSaved,
    EditApplied,
    EvaluationDone,
    IntervalDone,
    LaneOpened,
    RunInterval,
)
from orchestrator.journal import Journal, read
from tests.fakes import tiny
from tests.pairs import PairExecutor
from workers.contract import RefreshMask

MASKED: dict[str, Any] = {
    "stream": {
        "kind": "domains",
        "train_samples": 113,
        "test_samples": 60,
        "domains": [{"name": "turned", "rotate": 90.0}, {"name": "permuted", "permutation": 1}],
    },
    "model": {
        "experts": 4,
        "head": {
            "kind": "moe",
            "hidden": [24],
            "router": "adaptive",
            "selector": {"kind": "topk", "k": 2},
            "expert": {"kind": "bottleneck", "width": 6},
        },
    },
    "training": {
        "epochs": 4,
        "intervals": 5,
        "batch": 16,
        "clip": 1.0,
        "optimizer": {"kind": "sgd", "momentum": 0.9},
    },
    "growth": {"kind": "periodic"},
    "masks": {"kind": "usage", "sharing": "copy", "max_copies": 3, "from_stage": 1},
    "phases": {"kind": "three", "from_stage": 1},
    "checkpoint_every": 2,
}
"""An epoch of 113 samples ends with a batch of one: the second worker gets none of it. Not Adam: an
adaptive router starts from gradients that are nothing but rounding, which Adam makes full steps of.
"""
REPLAYED: dict[str, Any] = {
    "growth": {"kind": "periodic"},
    "training": {"epochs": 2, "intervals": 2, "augment": {"kind": "crop_flip", "padding": 1}},
    "checkpoint_every": 1,
    "lanes": [{"method": {"kind": "replay", "buffer": 60, "batch": 15}}],
}


def run(
    folder: Path,
    settings: dict[str, Any],
    workers: int = 2,
    lose: Callable[[Action], str | None] = lambda action: None,
) -> list[Any]:
    """Run to the end; every event of the journal."""
    config = tiny(**settings, workers=workers)
    journal = Journal(folder / "journal.jsonl")
    executor = PairExecutor(folder / "checkpoints", lose)
    assert Driver(config, journal, executor).run(begin(config, "run", 2, 0)) == "done"
    journal.close()
    return [record.event for record, _ in read(folder / "journal.jsonl")]


def of(events: list[Any], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def essence(events: list[Any]) -> Any:
    """What must not depend on what was killed; every edit gave one fingerprint only."""
    prints: dict[str, set[str]] = {}
    for event in of(events, EditApplied):
        prints.setdefault(event.edit.id, set()).add(event.report.fingerprint)
    assert all(len(found) == 1 for found in prints.values())
    final = {e.index: e.checkpoint.digest for e in of(events, CheckpointSaved) if e.final}
    rows = {event.index: event.report.scores for event in of(events, EvaluationDone)}
    return prints, final, rows


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return run(tmp_path_factory.mktemp("two"), MASKED)


def test_two_decide_what_one_decides(masked: list[Any], tmp_path: Path) -> None:
    alone = run(tmp_path, MASKED, workers=1)
    one, two = (of(events, EditApplied) for events in (alone, masked))
    assert [event.edit.kind for event in two] == [event.edit.kind for event in one]
    assert Counter(event.edit.kind for event in two)["refresh_mask"] == 3
    for first, second in zip(one, two, strict=True):
        if isinstance(first.edit, RefreshMask):
            assert second.edit.masks == first.edit.masks
            assert second.edit.copies == first.edit.copies
            assert second.edit.usage == first.edit.usage, "the matrices, too"
        assert second.report.after == first.report.after
    tokens = [[e.report.tokens for e in of(events, IntervalDone)] for events in (alone, masked)]
    assert tokens[0] == tokens[1], "every sample counted once"
    rows = [{e.index: e.report.scores for e in of(ev, EvaluationDone)} for ev in (alone, masked)]
    for index, scores in rows[0].items():
        assert rows[1][index] == pytest.approx(scores, abs=0.05)


def test_same_bits_every_time_and_other_bits_than_alone(masked: list[Any], tmp_path: Path) -> None:
    """Every checkpoint's digest was given by both workers alike, or the run had not got here."""
    assert essence(run(tmp_path, MASKED)) == essence(masked)
    opened = of(masked, LaneOpened)[0].report
    assert len({replica.pid for replica in opened.replicas}) == 2


@pytest.mark.parametrize("moment", ["before", "after"])
def test_one_killed_around_a_new_mask(masked: list[Any], tmp_path: Path, moment: str) -> None:
    """One mask version everywhere, and the bits of the run that nobody disturbed."""
    seen: Counter[int] = Counter()

    def lose(action: Action) -> str | None:
        if not isinstance(action, ApplyEdit) or not isinstance(action.edit, RefreshMask):
            return None
        seen[action.edit.version] += 1
        return moment if action.edit.version == 2 and seen[2] == 1 else None

    events = run(tmp_path, MASKED, lose=lose)
    assert len(of(events, LaneOpened)) == 2
    assert essence(events) == essence(masked)
    versions: dict[tuple[str, int], set[int]] = {}
    for event in of(events, IntervalDone):
        key = (event.report.stage, event.report.n)
        versions.setdefault(key, set()).add(event.report.mask_version)
    assert all(len(found) == 1 for found in versions.values())


def test_replay_buffer_is_the_same_on_both_and_comes_back(tmp_path: Path) -> None:
    """Growth, replay and augmentation; one killed in the middle of the third stage."""
    seen: Counter[str] = Counter()

    def lose(action: Action) -> str | None:
        if isinstance(action, RunInterval):
            seen["interval"] += 1
        return "after" if seen["interval"] == 6 and isinstance(action, RunInterval) else None

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = run(tmp_path / "whole", REPLAYED)
    killed = run(tmp_path / "killed", REPLAYED, lose=lose)
    assert len(of(killed, LaneOpened)) == 2
    assert essence(killed) == essence(whole)
