"""What policies of experts need of the rest of a lane: checks that several of them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workers.contract import LaneSettings, TaskSpec
from workers.tables import Problem, lookup


def chosen(table: Mapping[str, type], name: str, lane: LaneSettings) -> list[Any]:
    """Classes that the model's configs choose from ``table`` in their fields called ``name``."""
    parts = [part for part in lane.parts("model") if getattr(part, "mixture", True)]
    kinds = [getattr(part, name).kind for part in parts if getattr(part, name, None) is not None]
    return [lookup(table, kind, name) for kind in kinds]


def unable(lane: LaneSettings) -> list[Problem]:
    """Why this lane cannot train under masks or phases at all."""
    from workers.moe import ROUTERS

    if not chosen(ROUTERS, "router", lane):
        allowed = "use routed layers in the model (head moe or big_moe), or take this policy out"
        return [Problem("kind", "the model has no experts under a router", allowed)]
    if lane.mixes:
        method = lane.sections["method"].kind
        allowed = "nobody can tell its samples' domains: use method finetune"
        return [Problem("kind", f"method {method!r} mixes domains", allowed)]
    return []


def late(from_stage: int, lane: LaneSettings) -> list[Problem]:
    """A first stage that the stream does not have."""
    if from_stage < len(lane.tasks):
        return []
    allowed = f"the stream has {len(lane.tasks)} stages, numbered from 0"
    return [Problem("from_stage", f"got {from_stage}", allowed)]


def domains_told(lane: LaneSettings) -> list[Problem]:
    """Every sample must have a domain, and there must be something to tell apart."""
    tasks = lane.tasks
    unnamed = [task.name for task in tasks if not all(name.strip() for name in task.domains)]
    if unnamed:
        found = f"tasks without a domain label: {', '.join(map(repr, unnamed))}"
        return [Problem("kind", found, "masks need the domain of every task")]
    if len(lane.domains) < 2:
        found = f"all {len(tasks)} tasks are of domain {tasks[0].domain!r}"
        return [Problem("kind", found, "masks tell domains apart: give a stream of several")]
    return []


def domains_from(from_stage: int, tasks: Sequence[TaskSpec]) -> list[str]:
    """Domains of the stages from this one on, in order of appearance."""
    later = [task for task in tasks if task.index >= from_stage]
    return list(dict.fromkeys(name for task in later for name in task.domains))
