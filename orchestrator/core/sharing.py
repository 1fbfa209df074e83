"""Stages that lanes of a run have in common: who trains them, who takes them over, and whose
evaluation counts for whom. Pure, like the controller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.core.plans import Stem
from orchestrator.core.state import LaneState
from orchestrator.core.transitions import fallen_back
from workers.contract import Taken

Lanes = Mapping[str, LaneState]


def source_of(lane: LaneState, lanes: Lanes) -> LaneState | None:
    """The lane that has, or will have, the first stages of this one; None = it trains them itself.

    That is so too where it began to, or where every lane that has them gave them up.
    """
    stem = lane.plan.stem
    if stem is None or lane.base is not None or lane.queue:
        return None
    able = (lanes[name] for name in stem.lanes)
    return next((other for other in able if not _missed(other, stem)), None)


def held_back(lane: LaneState, lanes: Lanes) -> bool:
    """Whether the lane must not begin yet: another one is still to train its first stages."""
    source = source_of(lane, lanes)
    return source is not None and not _has(source, lane.plan.stem)


def taken_over(lane: LaneState, source: LaneState) -> LaneState:
    """The lane where it would stand had it trained its stem itself; rows of R are left out.

    Sequence numbers go on from the checkpoint's, as its own would.
    """
    assert lane.plan.stem is not None
    ends = {i: end for i, end in source.ends.items() if i < lane.plan.stem.stages}
    last = ends[max(ends)]
    seq = last.checkpoint.seq
    lane = replace(
        lane,
        stage=last.stage,
        index=max(ends),
        next_seq=seq + 1,
        answered=seq,
        executed=seq,
        ends=ends,
        steps_before=last.steps,
    )
    return fallen_back(lane)


def taken(lane: LaneState, lanes: Lanes) -> Taken | None:
    """What opening the lane from its ``base`` leaves to do, where another lane wrote that."""
    wrote = [end for end in lane.ends.values() if end.checkpoint == lane.base]
    if not wrote or wrote[0].lane == lane.name:
        return None
    other, own = lanes[wrote[0].lane].plan.spec, lane.plan.spec
    same = other.settings["method"] == own.settings["method"]
    return Taken(stage=wrote[0].stage, same_method=same)


def scored_alike(name: str, index: int, lanes: Lanes) -> list[LaneState]:
    """The lane, and all whose model after stage ``index`` is the same checkpoint scored alike."""
    own = lanes[name]
    end = own.ends.get(index)
    if end is None:
        return [own]
    return [
        lane
        for lane in lanes.values()
        if lane is own
        or (
            (other := lane.ends.get(index)) is not None
            and other.lane == end.lane  # who trained it: tells most lanes apart at once
            and other.checkpoint == end.checkpoint
            and lane.plan.scored_on == own.plan.scored_on
        )
    ]


def _has(other: LaneState, stem: Stem | None) -> bool:
    """Whether the stem is durable in this lane."""
    assert stem is not None
    end = other.ends.get(stem.stages - 1)
    return end is not None and end.checkpoint.stage == stem.stage


def _missed(other: LaneState, stem: Stem) -> bool:
    """Whether this lane will not have the stem: it failed, or gave up one of its stages."""
    beyond = other.status in ("done", "failed") or other.index >= stem.stages
    return beyond and not _has(other, stem)
