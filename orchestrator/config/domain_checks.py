"""What masks and phases need of the rest of a lane: every mismatch, found before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.policies import GROWTH, PHASES
from workers.contract import TaskSpec
from workers.tables import Problem, construct, lookup


def problems(sections: Mapping[str, Any], tasks: Sequence[TaskSpec], acts: bool) -> list[Problem]:
    """Problems of ``[masks]`` and ``[phases]`` with the other sections of a lane.

    ``acts``: whether the lane learns from what its own model does (``Engine.acts``).
    """
    masks, phases = sections["masks"], sections["phases"]
    wanted = [name for name in ("masks", "phases") if sections[name].kind != "none"]
    if not wanted:
        return []
    found = [
        Problem(f"{name}.kind", f"got {sections[name].kind!r}", allowed)
        for name in wanted
        for allowed in _unable(sections)
    ]
    found += _start_problems(sections, wanted, len(tasks))
    if not found and masks.kind != "none":
        found = _domain_problems(masks, tasks)
    if not found and masks.kind == "usage":
        found = _usage_problems(masks, sections["training"].intervals, tasks)
        found += _acting_problems(masks) if acts else []
    if not found and masks.kind == "fixed":
        found = _fixed_problems(masks, sections, tasks)
    if phases.kind == "three":
        found += _phase_problems(phases, sections["training"].intervals)
    return found


def _unable(sections: Mapping[str, Any]) -> list[str]:
    """Why this lane cannot train under masks or phases at all."""
    from workers.methods import METHODS
    from workers.moe.layers import moe_configs

    model = sections["model"]
    if not any(moe_configs(model)):
        return [f"model {model.kind!r} has no experts under a router: use layer or head moe"]
    method: Any = lookup(METHODS, sections["method"].kind, "method.kind")
    if getattr(method, "mixes", False) or getattr(method, "specialises", False):
        allowed = f"method {sections['method'].kind!r} mixes domains or masks by itself"
        return [f"{allowed}: use method finetune"]
    return []


def _start_problems(
    sections: Mapping[str, Any], wanted: Sequence[str], stages: int
) -> list[Problem]:
    return [
        Problem(
            f"{name}.from_stage",
            f"got {sections[name].from_stage}",
            f"the stream has {stages} stages, numbered from 0",
        )
        for name in wanted
        if getattr(sections[name], "from_stage", 0) >= stages
    ]


def _domain_problems(masks: Any, tasks: Sequence[TaskSpec]) -> list[Problem]:
    """Every sample must have a domain, and there must be something to tell apart."""
    unnamed = [task.name for task in tasks if not all(name.strip() for name in task.domains)]
    if unnamed:
        what = f"tasks without a domain label: {', '.join(map(repr, unnamed))}"
        return [Problem("masks", what, "masks need the domain of every task")]
    if len({name for task in tasks for name in task.domains}) < 2:
        found = f"all {len(tasks)} tasks are of domain {tasks[0].domain!r}"
        return [Problem("masks", found, "masks tell domains apart: give a stream of several")]
    return []


def _masked_domains(masks: Any, tasks: Sequence[TaskSpec]) -> list[str]:
    later = [task for task in tasks if task.index >= masks.from_stage]
    return list(dict.fromkeys(name for task in later for name in task.domains))


def _usage_problems(masks: Any, intervals: int, tasks: Sequence[TaskSpec]) -> list[Problem]:
    found = []
    if masks.refresh_every >= intervals:
        found.append(
            Problem(
                "masks.refresh_every",
                f"{masks.refresh_every} intervals with training.intervals = {intervals}",
                "a stage must be longer than that: raise training.intervals or refresh more often",
            )
        )
    domains = len(_masked_domains(masks, tasks))
    if masks.sharing == "copy" and masks.max_copies < domains - 1:
        found.append(
            Problem(
                "masks.max_copies",
                f"{masks.max_copies} copies for {domains} domains",
                f"an expert that all share needs {domains - 1} copies: raise it, or use "
                "sharing = 'share'",
            )
        )
    return found


def _acting_problems(masks: Any) -> list[Problem]:
    if not masks.exclusive_copies:
        return []
    what = "true in a lane that learns from its own actions"
    allowed = "a model must act as it learns, and in acting any copy can be chosen: leave it out"
    return [Problem("masks.exclusive_copies", what, allowed)]


def _fixed_problems(
    masks: Any, sections: Mapping[str, Any], tasks: Sequence[TaskSpec]
) -> list[Problem]:
    known = {name for task in tasks for name in task.domains}
    found = [
        Problem(f"masks.experts.{domain}", "no such domain", f"allowed: {', '.join(sorted(known))}")
        for domain in masks.experts
        if domain not in known
    ]
    missing = [name for name in _masked_domains(masks, tasks) if name not in masks.experts]
    if missing:
        allowed = "every domain needs at least one expert"
        found.append(Problem("masks.experts", f"missing: {', '.join(missing)}", allowed))
    growth, start = construct(GROWTH, sections["growth"]), getattr(sections["model"], "experts", 1)
    live = growth.final_experts(start, len(tasks)) or sections["model"].max_experts or start
    for domain, experts in masks.experts.items():
        absent = [expert for expert in experts if not 0 <= expert < live]
        if absent or not experts:
            what = f"experts {absent} do not exist" if absent else "no expert"
            allowed = f"the model has experts 0 to {live - 1}; give at least one"
            found.append(Problem(f"masks.experts.{domain}", what, allowed))
    return found


def _phase_problems(phases: Any, intervals: int) -> list[Problem]:
    """Each phase must last at least one interval."""
    starts = list(construct(PHASES, phases).starts(intervals).values())
    if starts == sorted(set(starts)) and starts[-1] < intervals:
        return []
    return [
        Problem(
            "phases",
            f"phases out of order: they would start after the intervals {starts} of {intervals}",
            "raise training.intervals, or move warmup_until and stabilise_until apart",
        )
    ]
