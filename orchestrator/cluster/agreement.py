"""One answer out of those of a lane's several workers.

Knows no Ray: any executor collects the answers and has them compared here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from orchestrator.core.actions import Action
from workers.contract import (
    CheckpointRef,
    DivergedError,
    EditReport,
    IntervalReport,
    Json,
    OpenReport,
    Replica,
    StartReport,
)

COMMON: Mapping[type, Callable[[Any], Any]] = {
    OpenReport: lambda report: {"shape": report.shape, "seq": report.seq},
    StartReport: lambda report: {
        "data": report.data_digest,
        "samples": report.samples,
        "figures": report.figures,
    },
    IntervalReport: lambda report: asdict(replace(report, seconds=0.0, rss_mb=0.0)),
    EditReport: lambda report: asdict(replace(report, probe_change=None, seconds=0.0)),
    CheckpointRef: asdict,
    type(None): lambda answer: {},
}
"""Kind of answer -> what every worker must have said alike."""


def agreed(action: Action, answers: Sequence[Any]) -> Any:
    """The one answer of a lane's workers, given theirs by rank.

    Raises DivergedError where they differ in what must be equal.
    """
    first, *others = answers
    if not others:
        return first
    said = COMMON[type(first)](first)
    for rank, answer in enumerate(others, start=1):
        other = COMMON[type(answer)](answer)
        if other != said:
            raise DivergedError(_difference(action, rank, said, other))
    if isinstance(first, OpenReport):
        return replace(first, replicas=tuple(Replica(a.host, a.pid) for a in answers))
    return first


def _difference(action: Action, rank: int, said: Json, other: Json) -> str:
    name = next(name for name in said if said[name] != other.get(name))
    return (
        f"workers 0 and {rank} of the lane disagree after {type(action).__name__}: {name} is "
        f"{said[name]!r} and {other.get(name)!r}; their models are no longer equal. All workers "
        "of a lane must run on machines of one kind (processor, torch, kernels): ask for one with "
        "resources.custom"
    )
