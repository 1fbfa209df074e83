"""Checkpoints of a run's stages, found from its folder alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config import changing
from orchestrator.config.run import LaneConfig
from orchestrator.core.folder import here, open_folder
from orchestrator.core.hints import command
from orchestrator.core.journal import JOURNAL_FILE, consistent, first_record, read
from orchestrator.report.history import RunHistory
from orchestrator.report.lane_history import LaneHistory
from workers.contract import CheckpointRef, InputError, TaskSpec


@dataclass(frozen=True, slots=True)
class Found:
    """A finished stage's model."""

    lane: LaneConfig
    stage: int
    task: TaskSpec
    """What was learnt in the stage."""
    checkpoint: CheckpointRef


def find(run_dir: str | Path, lane: str | None, stage: int | None) -> Found:
    """The model of ``lane`` after ``stage``; by default of the first lane that has a finished
    stage, after its last one.

    Raises InputError where the run has no such lane or stage.
    """
    folder = open_folder(run_dir)
    started = first_record(folder.path)
    if started is None:
        raise InputError(f"{run_dir}: no journal there; give the folder of a run")
    history = RunHistory()
    with consistent(folder.path / JOURNAL_FILE):
        for record, _ in read(folder.path / JOURNAL_FILE):
            history.add(record)
    done = {found.name: found for found in history.lanes.values() if _saved(found)}
    if not done:
        raise InputError(
            f"{run_dir}: no stage of this run is finished (it is {history.status}), so there is no "
            f"model yet; `{command('show', run_dir)}` tells where it stands"
        )
    name = next(iter(done)) if lane is None else lane
    chosen = named(done, name, "lane with a finished stage")
    saved = _saved(chosen)
    index = max(saved) if stage is None else stage
    checkpoint = named(saved, index, f"finished stage of lane {chosen.name!r}")
    placed = here(checkpoint, folder.checkpoints)
    config = changing.changed(started, changing.before(folder.path))
    settings = config.lane(chosen.name)
    return Found(settings, index, settings.tasks()[index], placed)


def named(known: dict[Any, Any], name: Any, what: str) -> Any:
    """The one of this name; InputError that lists those there are."""
    if name not in known:
        there = ", ".join(str(key) for key in known) or "none yet"
        raise InputError(f"the run has no {what} {name!r}; there are: {there}")
    return known[name]


def _saved(lane: LaneHistory) -> dict[int, CheckpointRef]:
    return {i: stage.checkpoint for i, stage in lane.stages.items() if stage.checkpoint}
