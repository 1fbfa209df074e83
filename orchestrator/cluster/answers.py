"""The event that an action's answer stands for; knows no Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.core.actions import (
    ApplyEdit,
    CloseLane,
    Evaluate,
    OpenLane,
    RunInterval,
    SaveCheckpoint,
    StartStage,
)
from orchestrator.core.events import (
    CheckpointSaved,
    EditApplied,
    EvaluationDone,
    Event,
    IntervalDone,
    LaneClosed,
    LaneOpened,
    StageStarted,
)

ANSWER: Mapping[type, Callable[[Any, Any, float], Event]] = {
    StartStage: lambda c, report, at: StageStarted(
        at=at, lane=c.lane, attempt=c.attempt, seq=c.seq, stage=c.stage, report=report
    ),
    RunInterval: lambda c, report, at: IntervalDone(
        at=at, lane=c.lane, attempt=c.attempt, seq=c.seq, report=report
    ),
    ApplyEdit: lambda c, report, at: EditApplied(
        at=at, lane=c.lane, attempt=c.attempt, seq=c.seq, edit=c.edit, report=report
    ),
    SaveCheckpoint: lambda c, ref, at: CheckpointSaved(
        at=at,
        lane=c.lane,
        attempt=c.attempt,
        seq=c.seq,
        index=c.index,
        final=c.final,
        checkpoint=ref,
    ),
    OpenLane: lambda a, report, at: LaneOpened(
        at=at, lane=a.spec.lane, attempt=a.attempt, report=report
    ),
    CloseLane: lambda a, report, at: LaneClosed(at=at, lane=a.lane, attempt=a.attempt),
    Evaluate: lambda a, report, at: EvaluationDone(
        at=at, lane=a.spec.lane, index=a.index, report=report
    ),
}
"""Type of an action -> event of (action, what the worker answered, time in seconds)."""
