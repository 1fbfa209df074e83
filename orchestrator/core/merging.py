"""Lanes whose first model is made of models that other lanes of the run train: when they may begin,
and what they are handed. Pure, like the controller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.core.state import LaneState, StageEnd
from workers.contract import LaneSpec, Parent, Start

Lanes = Mapping[str, LaneState]


def awaited(lane: LaneState) -> tuple[Parent, ...]:
    """Models that lanes of the run train for this one; none once it has one of its own."""
    merged = lane.plan.spec.merged
    if merged is None or lane.base is not None:
        return ()
    return tuple(parent for parent in merged.parents if parent.lane is not None)


def unfinished(lane: LaneState, lanes: Lanes) -> bool:
    """Whether a model that the lane is made of is still to come."""
    return any(_end(parent, lanes) is None for parent in awaited(lane))


def lost(lane: LaneState, lanes: Lanes) -> Parent | None:
    """A model that the lane is made of and that will not come: its lane failed, or gave up the
    stage, or one before it."""
    for parent in awaited(lane):
        other = lanes[str(parent.lane)]
        beyond = other.status in ("done", "failed") or other.index > parent.index
        if beyond and _end(parent, lanes) is None:
            return parent
    return None


def opened(lane: LaneState, lanes: Lanes) -> LaneSpec:
    """What a worker is told of the lane: the checkpoints of its parents are in it."""
    merged, spec = lane.plan.spec.merged, lane.plan.spec
    if merged is None or lane.base is not None:
        return spec
    parents = []
    for parent in merged.parents:
        end = None if parent.lane is None else _end(parent, lanes)
        parents.append(parent if end is None else replace(parent, checkpoint=end.checkpoint))
    return replace(spec, merged=replace(merged, parents=tuple(parents)))


def scored(lane: LaneState) -> LaneSpec:
    """What an evaluator is told of the lane: it began with the merged model, which stands."""
    spec, first = lane.plan.spec, lane.ends.get(-1)
    if spec.merged is None or first is None:
        return spec
    return replace(spec, start=Start(checkpoint=first.checkpoint))


def _end(parent: Parent, lanes: Lanes) -> StageEnd | None:
    end = lanes[str(parent.lane)].ends.get(parent.index)
    return end if end is not None and end.checkpoint.stage == parent.stage else None
