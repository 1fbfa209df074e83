"""What policies of experts need of the rest of a lane: checks that several of them share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workers.contract import LaneSettings, TaskSpec, WithRoutedLayers, domains_of
from workers.tables import Problem, lookup


def routed(lane: LaneSettings) -> list[WithRoutedLayers]:
    """The Configs in the model that stand for layers with experts under a router."""
    return [part for part in lane.parts("model") if isinstance(part, WithRoutedLayers)]


def unrouted(lane: LaneSettings) -> list[Problem]:
    """Why a policy of experts or routers has nothing to do in this lane."""
    if routed(lane):
        return []
    allowed = (
        "use routed layers in the model (head moe or big_moe, layer moe of a decoder), or take "
        "this policy out"
    )
    return [Problem("kind", "the model has no experts under a router", allowed)]


def unable(lane: LaneSettings) -> list[Problem]:
    """Why this lane cannot train under masks or phases at all."""
    if found := unrouted(lane):
        return found
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
    return list(domains_of(task for task in tasks if task.index >= from_stage))


def grown_before(policy: Any, lane: LaneSettings) -> bool:
    """Whether a policy that may grow the model is asked before this one (its Config)."""
    from orchestrator.policies import proposed

    for other in lane.policies.values():
        if other is policy:
            return False
        if "grow" in proposed(other):
            return True
    return False


def unfit_routers(lane: LaneSettings, method: str) -> list[str]:
    """Kinds of routers in the model that do not define ``method`` of their base."""
    from workers.moe.routers import ROUTERS, Router

    kinds = {layer.router.kind: lookup(ROUTERS, layer.router.kind, "") for layer in routed(lane)}
    base = getattr(Router, method)
    return [kind for kind, cls in kinds.items() if getattr(cls, method, base) is base]


def even_schedules(lane: LaneSettings, path: str) -> list[Problem]:
    """Schedules under which layers do not have as many experts as the model is said to have, so
    that none can grow by itself."""
    found = []
    for part in lane.parts("model"):
        schedule = getattr(part, "schedule", None)
        if schedule is not None and not _even(schedule):
            what = f"schedule {schedule.kind!r} gives layers different numbers of experts"
            allowed = "layers grow one by one: use schedule constant"
            found.append(Problem(path, what, allowed))
    return found


def _even(schedule: Any) -> bool:
    """Whether every layer has as many experts as the model is said to have."""
    from workers.moe.growth.schedules import SCHEDULES, Place
    from workers.tables import construct

    made = construct(SCHEDULES, schedule)
    return all(Place(made, i, 4).count(n) == n for i in range(4) for n in range(1, 9))
