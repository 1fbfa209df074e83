"""How a trial goes on from another trial's model: the journal of a new attempt begins with the
other's history up to a stage. Pure: records in, records out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from orchestrator.core.events import (
    CheckpointSaved,
    ClusterChanged,
    EditApplied,
    EvaluationDone,
    IntervalDone,
    LaneOpened,
    RunStarted,
    StageStarted,
)
from orchestrator.core.records import Record
from workers.contract import CheckpointRef


def inherited(
    first: RunStarted,
    donor: str,
    records: Iterable[Record],
    stages: int,
    adopt: Callable[[CheckpointRef], CheckpointRef],
) -> list[Record]:
    """A journal that starts with ``first`` and holds the donor's first ``stages`` stages.

    ``donor`` is its run id. ``adopt`` makes the last of its checkpoints one that the new settings
    may be trained on from; what a recovery of the donor repeated is left out. Edits keep the
    donor's ids: they are its decisions.
    """
    (lane,) = first.plan.lanes
    room = ClusterChanged(at=first.at, cpus=lane.cpus, gpus=lane.gpus)
    kept = [Record(event=first), Record(event=room)]
    answered, rows, complete = 0, set(), False
    for record in records:
        event = record.event
        match event:
            case EvaluationDone(index=index) if index < stages and index not in rows:
                rows.add(index)
                kept.append(record)
            case LaneOpened() if len(kept) == 2:
                kept.append(replace(record, event=replace(event, attempt=1)))
            case StageStarted() | IntervalDone() | EditApplied() | CheckpointSaved():
                if complete or event.seq <= answered:
                    continue
                answered = event.seq
                if isinstance(event, CheckpointSaved):
                    complete = event.final and event.index == stages - 1
                    ref = adopt(event.checkpoint) if complete else event.checkpoint
                    origin = event.adopted_from or donor
                    event = replace(event, checkpoint=ref, adopted_from=origin)
                kept.append(replace(record, event=replace(event, attempt=1)))
    assert complete, f"{donor} has not learnt {stages} stages"
    return kept
