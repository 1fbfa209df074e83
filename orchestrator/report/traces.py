"""``growstage trace``: where an agent's routers send one episode, from a run folder alone.

Knows no Ray and no MLflow; the agent plays in this process.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.config import file as configuration
from orchestrator.core.folder import open_folder
from orchestrator.core.journal import JOURNAL_FILE, first_record, read
from orchestrator.report import figures
from orchestrator.report.history import RunHistory
from orchestrator.report.lane_history import LaneHistory
from workers.contract import CheckpointRef, InputError, Json, TaskSpec


def trace(run_dir: str | Path, lane: str | None, stage: int | None, task: str | None) -> Json:
    """One episode of ``task`` by the agent of ``lane`` after ``stage`` (defaults: first lane with
    a finished stage, its last one, the task learnt there): floors [T], gates layer -> [T][experts].

    Raises InputError where the run has no such lane, stage, task or router.
    """
    folder = open_folder(run_dir)
    started = first_record(folder.path)
    if started is None:
        raise InputError(f"{run_dir}: no journal there; give the folder of a run")
    history = RunHistory()
    for record, _ in read(folder.path / JOURNAL_FILE):
        history.add(record)
    found = _lane(history, lane)
    index, checkpoint = _stage(found, stage)
    settings = configuration.restore(started.config).lane(found.name)
    if settings.trainer != "rl":
        raise InputError(f"lane {found.name!r} plays no episodes; trace lanes of an agent")
    played = _task(settings.tasks(), task or found.stages[index].spec.task.name)

    from workers.rl.tracing import trace_checkpoint

    seen = trace_checkpoint(settings.spec(), checkpoint, played)
    return {"lane": found.name, "stage": index, "task": played.name, **asdict(seen)}


def check_writable(path: Path) -> None:
    """Refuse a place that no figure can be written to, before an episode is played for it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        open(path, "ab").close()
        if new:
            path.unlink()
    except OSError as error:
        raise InputError(
            f"--out {path}: cannot write there ({error.strerror}); give a PNG file in a folder "
            "that can be written to"
        ) from error


def save(episode: Json, path: Path) -> None:
    """Draw the episode into a PNG file; its folder is there."""
    path.write_bytes(figures.episode(episode))


def _lane(history: RunHistory, name: str | None) -> LaneHistory:
    done = {lane.name: lane for lane in history.lanes.values() if _saved(lane)}
    if name is None and done:
        return next(iter(done.values()))
    return _named(done, name, "lane with a finished stage")


def _stage(lane: LaneHistory, index: int | None) -> tuple[int, CheckpointRef]:
    saved = _saved(lane)
    chosen = max(saved) if index is None else index
    return chosen, _named(saved, chosen, f"finished stage of lane {lane.name!r}")


def _task(tasks: tuple[TaskSpec, ...], name: str) -> TaskSpec:
    return _named({task.name: task for task in tasks}, name, "task")


def _saved(lane: LaneHistory) -> dict[int, CheckpointRef]:
    return {i: stage.checkpoint for i, stage in lane.stages.items() if stage.checkpoint}


def _named(known: dict[Any, Any], name: Any, what: str) -> Any:
    if name not in known:
        there = ", ".join(str(key) for key in known) or "none yet"
        raise InputError(f"the run has no {what} {name!r}; there are: {there}")
    return known[name]
