"""``growstage trace``: where a model's routers send one episode or passage, from a run folder.

Knows no Ray and no MLflow; the model answers in this process.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.report import checkpoints, figures
from workers import trainers
from workers.contract import InputError, Json

Watch = Callable[[int, int, Callable[[], Any]], None]
"""Told (step, most steps, what draws the environment: uint8 [H, W, 3], or None)."""


def trace(
    run_dir: str | Path,
    lane: str | None,
    stage: int | None,
    task: str | None,
    text: str | None,
    watch: Watch | None = None,
) -> Json:
    """One episode or passage of ``task`` (default: that of the stage): gates layer ->
    [T][experts], beside the floors or tokens [T].

    ``watch`` is told of every step of an episode. Raises InputError where the run has no such lane,
    stage, task or router.
    """
    found = checkpoints.find(run_dir, lane, stage)
    tasks = {one.name: one for one in (*found.lane.tasks(), *found.lane.scored_tasks())}
    chosen = checkpoints.named(tasks, task or found.task.name, "task")
    seen = trainers.trace(found.lane.spec(), found.checkpoint, chosen, text, watch)
    return {"lane": found.lane.name, "stage": found.stage, "task": chosen.name, **seen}


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


def save(traced: Json, path: Path) -> None:
    """Draw it into a PNG file; its folder is there."""
    draw = figures.passage if "tokens" in traced else figures.episode
    path.write_bytes(draw(traced))
