"""What a sweep has come to, from the journals of its trials alone.

Pure but for reading the journals. The best trial is the one with the largest objective among
those that learnt most stages: an early score says less than a late one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.events import CheckpointSaved, RunResumed, RunStarted, StageStarted
from orchestrator.core.journal import JOURNAL_FILE, read
from orchestrator.report.history import RunHistory
from tune_spaces.objective import Objective, scores_of
from workers.contract import Json

STATUS = {"interrupted": "stopped"}
"""What a run's end is called in a sweep: there it is the scheduler that stops trials."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt of a trial as its journal tells it."""

    run: str
    trial: str
    number: int
    name: str
    settings: Json
    parent: str | None
    status: str
    folder: Path
    last: float
    """When the last record was written, in seconds since the epoch."""
    planned: int
    """Stages of the stream."""
    values: tuple[float, ...]
    """Objective after each stage."""
    experts: int
    trained: int
    """Stages trained to their end in this attempt."""
    cut: int
    """Stages begun and not finished."""
    shared: int
    """Stages taken over from a trial that had done the same."""
    inherited: int
    """Stages of the trial whose model it went on from."""


def attempts(folder: Path, objective: Objective, planned: int) -> list[Attempt]:
    """Every attempt in a sweep's folder, in order of trial and number; ``planned`` = stages."""
    paths = sorted((folder / "trials").glob(f"*/*/{JOURNAL_FILE}"), key=_order)
    found = [_attempt(path.parent, objective, planned) for path in paths]
    return [attempt for attempt in found if attempt is not None]


def latest(found: Iterable[Attempt]) -> list[Attempt]:
    """The last attempt of each trial."""
    return list({attempt.trial: attempt for attempt in found}.values())


def best(found: Iterable[Attempt]) -> Attempt | None:
    """The best of all attempts; None where none has learnt a stage."""
    scored = [attempt for attempt in found if attempt.values]
    return max(scored, key=lambda x: (len(x.values), x.values[-1]), default=None)


def base_of(found: Iterable[Attempt], settings: Json | None) -> Attempt | None:
    """The trial with the base's own settings; None where there is none that has learnt a stage."""
    same = (one for one in found if one.parent is None and one.settings == settings)
    return next((one for one in same if one.values), None)


def gain(winner: Attempt | None, base: Attempt | None) -> tuple[float, int] | None:
    """(objective of the best less that of the base, after so many stages): the last ones that both
    have learnt. None where one is missing."""
    if winner is None or base is None:
        return None
    stages = min(len(winner.values), len(base.values))
    return winner.values[stages - 1] - base.values[stages - 1], stages


def as_json(sweep: str, folder: Path, found: list[Attempt], settings: Json | None = None) -> Json:
    """The contract of ``--json``; ``settings``: the base's own."""
    winner, trials = best(found), latest(found)
    base = base_of(found, settings)
    gained = gain(winner, base)
    planned = sum(attempt.planned for attempt in trials)
    reached = sum(len(attempt.values) for attempt in trials)
    return {
        "sweep": sweep,
        "folder": str(folder),
        "trials": [_trial(attempt) for attempt in found],
        "stages": {
            "planned": planned,
            "trained": sum(attempt.trained for attempt in found),
            "cut_short": sum(attempt.cut for attempt in found),
            "saved_by_early_stopping": planned - reached,
            "saved_by_shared_prefixes": sum(attempt.shared for attempt in found),
            "inherited": sum(attempt.inherited for attempt in found),
        },
        "best": None if winner is None else _trial(winner),
        "base": None if base is None else _trial(base),
        "gain": None if gained is None else {"objective": gained[0], "stages": gained[1]},
    }


def _trial(attempt: Attempt) -> Json:
    return {
        "run": attempt.run,
        "trial": attempt.trial,
        "attempt": attempt.number,
        "parent": attempt.parent,
        "settings": attempt.settings,
        "status": attempt.status,
        "stages": len(attempt.values),
        "objective": attempt.values[-1] if attempt.values else None,
        "experts": attempt.experts,
        "folder": str(attempt.folder),
    }


def _attempt(folder: Path, objective: Objective, planned: int) -> Attempt | None:
    """None where the journal holds no whole record yet."""
    history, last = RunHistory(), 0.0
    started: set[int] = set()
    trained: set[int] = set()
    shared: set[int] = set()
    for record, _ in read(folder / JOURNAL_FILE):
        history.add(record)
        last = record.event.at
        match record.event:
            case StageStarted(stage=stage):
                started.add(stage.index)
            case CheckpointSaved(index=index, final=True, adopted_from=origin) if index >= 0:
                (trained if origin is None else shared).add(index)
    first = history.started
    if first is None or first.trial is None:
        return None
    inherited = _prefix(folder) if first.trial.parent is not None else 0
    (lane,) = history.lanes.values()
    scores, learnt = scores_of(lane), len(lane.complete())
    experts = [layer.experts for layer in lane.shape.layers.values()] if lane.shape else []
    return Attempt(
        run=first.run_id,
        trial=first.trial.trial,
        number=first.trial.attempt,
        name=first.trial.name,
        settings=first.trial.settings,
        parent=first.trial.parent,
        status=STATUS.get(history.status, history.status),
        folder=folder,
        last=last,
        planned=planned,
        values=tuple(objective(scores, stages) for stages in range(1, learnt + 1)),
        experts=max(experts, default=0),
        trained=len(trained),
        cut=len(started - trained - shared),
        shared=len(shared) - inherited,
        inherited=inherited,
    )


def _prefix(folder: Path) -> int:
    """Stages in the history that an attempt was begun with: all before its first driver."""
    count = 0
    for record, _ in read(folder / JOURNAL_FILE):
        match record.event:
            case RunResumed():
                break
            case CheckpointSaved(index=index, final=True) if index >= 0:
                count += 1
            case RunStarted():
                count = 0
    return count


def _order(path: Path) -> tuple[str, int]:
    return path.parent.parent.name, int(path.parent.name)
