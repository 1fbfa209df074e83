"""Population-based training over whole streams: trials go on from each other's grown models.

Takes minutes: ``make test-chaos``; ``GROWSTAGE_CHAOS_SEED`` is the search's seed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.file import check
from orchestrator.config.plan import plan
from orchestrator.core.events import CheckpointSaved, LaneOpened, RunResumed
from orchestrator.core.journal import JOURNAL_FILE, read
from tests.commands import Command
from tests.streams import split_digits
from tune_spaces.search import load
from tune_spaces.stream_file import with_settings
from workers.contract import ModelShape

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(
        "GROWSTAGE_CHAOS" not in os.environ, reason="takes minutes: make test-chaos"
    ),
]

BASE = split_digits(
    "population", hidden=128, epochs=30, training='optimizer = { kind = "adamw", lr = 2e-3 }'
)


def experts(shape: ModelShape) -> int:
    return max(layer.experts for layer in shape.layers.values())


def planned_experts(folder: Path, settings: Any) -> int:
    """Experts that a trial with these settings has after the whole stream, left to itself."""
    config = check(with_settings(load(folder).raw, settings), "trial")
    found = plan(config)[0].stages[-1].experts
    assert found is not None
    return found


def history(attempt: Any) -> tuple[int, ModelShape | None]:
    """(stages an heir was begun with, the shape in which its own first worker took them up)."""
    begun, mine = 0, False
    for record, _ in read(Path(attempt["folder"]) / JOURNAL_FILE):
        match record.event:
            case CheckpointSaved(final=True, index=index, adopted_from=str()) if not mine:
                begun = index + 1
            case RunResumed():
                mine = True
            case LaneOpened(report=report) if mine:
                return begun, report.shape
    return begun, None


def experts_after(attempt: Any, stages: int) -> int | None:
    """Experts an attempt itself had after so many stages; None where it did not get there."""
    from orchestrator.report.history import RunHistory

    told = RunHistory()
    for record, _ in read(Path(attempt["folder"]) / JOURNAL_FILE):
        told.add(record)
        event = record.event
        if isinstance(event, CheckpointSaved) and event.final and event.index == stages - 1:
            (lane,) = told.lanes.values()
            return None if lane.shape is None else experts(lane.shape)
    return None


@pytest.mark.slow
def test_trials_go_on_from_grown_models_of_another_shape(cluster: str, runs: Path) -> None:
    base = runs.parent / "base.toml"
    base.write_text(BASE)
    folder = runs / "population"
    options = ("--scheduler", "pbt", "--grace", 2, "--num-samples", 4, "--sweep-dir", folder)
    seed = os.environ.get("GROWSTAGE_CHAOS_SEED", "0")
    words = ("growth", "--base", base, *options, "--seed", seed, "--json")
    told = Command("tune_spaces", *words, env={"RAY_ADDRESS": cluster}).json(1200)
    by_run = {trial["run"]: trial for trial in told["trials"]}
    by_attempt = {(trial["trial"], trial["attempt"]): trial for trial in told["trials"]}

    heirs = [trial for trial in told["trials"] if trial["parent"] is not None]
    assert heirs, "no trial went on from another one's model"
    reshaped = 0
    for heir in heirs:
        begun, shape = history(heir)
        assert begun > 0
        if shape is None:  # replaced, or ended, before its worker was there
            continue
        donor = experts_after(by_run[heir["parent"]], begun)
        assert experts(shape) == donor, "the model taken over has the donor's shape"
        own = experts_after(by_attempt[heir["trial"], heir["attempt"] - 1], begun)
        reshaped += own is not None and own != donor
    best = told["best"]
    print(f"seed {seed}: {len(heirs)} heirs, {reshaped} of them with another number of experts")
    print(f"winner: {best['experts']} experts, {planned_experts(folder, best['settings'])} planned")
    if best["parent"] is not None:
        parent = by_run[best["parent"]]
        print(f"its parent: {planned_experts(folder, parent['settings'])} planned by its settings")
    assert reshaped, "every trial went on from a model of the shape it had itself"
