"""When each expert of a lane was there, from the edits that added and removed some. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from orchestrator.report.lane_history import LaneHistory
from workers.edits import Edit


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """One expert; moments count in stages, so that 1.5 is the middle of the second."""

    expert: int
    born: float
    """0 for one that was there from the start."""
    removed: float | None
    """None = it is still there."""
    parent: int | None
    """Expert that it began as a copy of."""
    cause: str
    """What its edit was triggered by; empty where it was there from the start."""


def moment(index: int, edit: Edit, intervals: int) -> float:
    """When in the stream an edit was made: stages learnt before it, and the share of the next."""
    return index + edit.after_interval / max(1, intervals, edit.after_interval)


def lifetimes(lane: LaneHistory) -> dict[str, list[Lifetime]]:
    """Layer -> its experts by id; edits of stages that were given up are left out."""
    found = {
        layer: [
            Lifetime(expert=n, born=0.0, removed=None, parent=None, cause="") for n in range(count)
        ]
        for layer, count in lane.founders.items()
    }
    for index, edit, report in lane.kept_edits():
        at = moment(index, edit, lane.stages[index].spec.intervals)
        cause = f"{edit.cause.policy} ({edit.cause.trigger})"
        for layer, parents in report.parents.items():
            known = found.setdefault(layer, [])
            for parent in parents:
                born = len(known)
                known.append(
                    Lifetime(expert=born, born=at, removed=None, parent=parent, cause=cause)
                )
        for layer, shape in report.after.layers.items():
            known = found.get(layer, [])
            for number in shape.removed:
                if number < len(known) and known[number].removed is None:
                    known[number] = replace(known[number], removed=at)
    return found
