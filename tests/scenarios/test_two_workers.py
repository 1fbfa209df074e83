"""Lanes of two workers, really trained in two processes: the same decisions as alone, the same
bits on both, and the same bits again after one of them was killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.beginning import begin, joined
from orchestrator.core.actions import Action, ApplyEdit, RunInterval
from orchestrator.core.events import (
    CheckpointSaved,
    EditApplied,
    EvaluationDone,
    IntervalDone,
    LaneOpened,
    StageStarted,
)
from orchestrator.core.journal import Journal, read
from orchestrator.driver import Driver
from tests.fakes import tiny
from tests.pairs import PairExecutor
from tests.tokens import text_lane, write_texts
from tests.two_workers import MASKED, essence, of
from workers.edits import RefreshMask
from workers.streams import places

REPLAYED: dict[str, Any] = {
    "stream": {"kind": "split", "dataset": "digits", "classes_per_task": 5},
    "policies": {"growth": {"kind": "periodic"}},
    "training": {"epochs": 2, "intervals": 3, "augment": {"kind": "crop_flip", "padding": 1}},
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
    assert Driver(config, journal, executor).run(begin(config, "run"), joined(2, 0)) == "done"
    journal.close()
    return [record.event for record, _ in read(folder / "journal.jsonl")]


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
            for layer, matrix in first.edit.usage.items():
                for row, expected in zip(second.edit.usage[layer], matrix, strict=True):
                    assert row == pytest.approx(expected, abs=0.02), "but for tokens on the edge"
        assert second.report.after == first.report.after
    tokens = [[e.report.tokens for e in of(events, IntervalDone)] for events in (alone, masked)]
    assert tokens[0] == tokens[1], "every sample counted once"
    rows = [{e.index: e.report.scores for e in of(ev, EvaluationDone)} for ev in (alone, masked)]
    for index, scores in rows[0].items():
        assert rows[1][index] == pytest.approx(scores, abs=0.05)
    replicas = of(masked, LaneOpened)[0].report.replicas
    assert len({replica.pid for replica in replicas}) == 2
    assert of(alone, LaneOpened)[0].report.replicas == ()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_one_killed_around_a_new_mask(masked: list[Any], tmp_path: Path, moment: str) -> None:
    """One mask version everywhere, and the bits of the run that nobody disturbed.

    Every checkpoint's digest was given by both workers alike, or the run had not ended.
    """
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
        versions.setdefault(key, set()).add(event.report.revision)
    assert all(len(found) == 1 for found in versions.values())


def test_replay_buffer_is_the_same_on_both_and_comes_back(tmp_path: Path) -> None:
    """Growth, replay and augmentation; one killed in the middle of the second stage."""
    seen: Counter[str] = Counter()

    def lose(action: Action) -> str | None:
        if isinstance(action, RunInterval):
            seen["interval"] += 1
        return "after" if seen["interval"] == 5 and isinstance(action, RunInterval) else None

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = run(tmp_path / "whole", REPLAYED)
    killed = run(tmp_path / "killed", REPLAYED, lose=lose)
    assert len(of(killed, LaneOpened)) == 2
    assert essence(killed) == essence(whole)


def test_biases_that_follow_the_load_are_the_same_on_both_and_come_back(tmp_path: Path) -> None:
    """Growth and a selector with running state; one killed after the second stage's first interval.

    Every checkpoint's digest, biases included, was given by both workers alike.
    """
    layer = {"selector": {"kind": "loss_free", "rate": 0.05}}
    settings = {
        **REPLAYED,
        "model": {"experts": 3, "head": {"kind": "moe", "hidden": [24], "layer": layer}},
        "training": {"epochs": 1, "intervals": 2},
    }
    seen: Counter[str] = Counter()

    def lose(action: Action) -> str | None:
        seen["interval"] += isinstance(action, RunInterval)
        return "after" if seen["interval"] == 3 and isinstance(action, RunInterval) else None

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = run(tmp_path / "whole", settings)
    killed = run(tmp_path / "killed", settings, lose=lose)
    assert len(of(killed, LaneOpened)) == 2
    assert any(event.edit.kind == "grow" for event in of(killed, EditApplied))
    assert essence(killed) == essence(whole)


def test_two_teach_a_language_model_what_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows have different numbers of targets, so means over them would not add up."""
    monkeypatch.setenv(places.ENVIRONMENT, str(tmp_path / "data"))
    texts = write_texts(tmp_path / "texts", lines=3)
    settings = text_lane(texts, stream={"domains": ["cooking"], "window": 24})
    one, two = (run(tmp_path / str(n), settings, workers=n) for n in (1, 2))
    for alone, together in zip(of(one, IntervalDone), of(two, IntervalDone), strict=True):
        for name in ("loss", "train_score", "gradient_norm"):
            expected = pytest.approx(alone.report.metrics[name], rel=1e-3)
            assert together.report.metrics[name] == expected, name
    rows = [of(events, EvaluationDone)[-1].report for events in (one, two)]
    assert rows[1].scores == pytest.approx(rows[0].scores, rel=1e-3)


def test_two_workers_take_a_stage_over_that_two_have_trained(tmp_path: Path) -> None:
    """Each fills its buffer alike, so that their checkpoints agree, with and without sharing."""
    lanes = [{"method": "finetune"}, *REPLAYED["lanes"]]
    shared, apart = (
        run(tmp_path / name, {**REPLAYED, "lanes": lanes, "share_stages": name == "shared"})
        for name in ("shared", "apart")
    )
    assert Counter(e.lane for e in of(shared, StageStarted)) == {"finetune-s0": 2, "replay-s0": 1}
    last = [
        {
            e.lane: e.checkpoint.digest
            for e in of(events, CheckpointSaved)
            if e.final and e.index == 1
        }
        for events in (shared, apart)
    ]
    assert last[0] == last[1]
    assert len(last[0]) == 2
