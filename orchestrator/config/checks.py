"""How a lane's sections must fit together, found before anything runs.

What rests on other sections' fit is looked at once these do: the first group of checks with a
mismatch is told alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestrator.config import domain_checks
from orchestrator.policies import GROWTH
from workers import trainers
from workers.contract import LaneSettings
from workers.tables import Problem, construct, lookup


def mismatches(sections: Mapping[str, Any], seeds: list[int], path: str) -> list[Problem]:
    """What no single section can check: engine and kinds fit, the stream can be read, seeds."""
    from workers.methods import METHODS
    from workers.models import capability_problem

    problems: list[Problem] = []
    if not seeds or len(set(seeds)) != len(seeds):
        problems.append(Problem(f"{path}.seeds", f"got {seeds}", "give different numbers"))
        return problems
    stream = construct(trainers.streams(), sections["stream"], seeds[0])
    engine = trainers.ENGINES[stream.engine]
    found = sections["training"].kind
    if found != engine.training and ":" not in found:
        problems.append(
            Problem(
                f"{path}.training.kind",
                f"got {found!r} with stream {sections['stream'].kind!r}",
                f"a stream of engine {stream.engine} needs training.kind = {engine.training!r}",
            )
        )
    unable = capability_problem(sections["model"].kind, engine.model, f"{path}.model.kind")
    problems += [unable] if unable is not None else []
    method: Any = lookup(METHODS, sections["method"].kind, f"{path}.method.kind")
    if stream.engine not in method.works_with:
        trained_by = ", ".join(sorted(method.works_with))
        what = f"{sections['method'].kind!r} has hooks that only these trainers call: {trained_by}"
        allowed = f"the stream is trained by {stream.engine}: use another method, e.g. 'finetune'"
        problems.append(Problem(f"{path}.method.kind", what, allowed))
    problems += [replace(item, path=f"{path}.{item.path}") for item in stream.problems()]
    if problems:
        return problems
    tasks = tuple(stream.tasks())
    settings = LaneSettings(
        sections=sections,
        policies={},
        tasks=tasks,
        domains=tuple(dict.fromkeys(name for task in tasks for name in task.domains)),
        trainer=stream.engine,
        acts=engine.acts,
        workers=1,
        intervals=sections["training"].intervals,
    )
    for name in ("stream", "training"):
        fits: Any = getattr(sections[name], "problems", lambda lane: [])
        problems += [replace(item, path=f"{path}.{name}.{item.path}") for item in fits(settings)]
    if problems:
        return problems
    found = domain_checks.problems(sections, tasks, engine.acts)
    problems = [replace(item, path=f"{path}.{item.path}") for item in found]
    return problems + _growth_problems(sections, len(tasks), path)


def _growth_problems(sections: Mapping[str, Any], stages: int, path: str) -> list[Problem]:
    """Growth, initialiser and expert counts must fit together."""
    from workers.moe import INITIALISERS

    model, growth = sections["model"], sections["growth"]
    problems = []
    start = getattr(model, "experts", None)
    initialiser = getattr(growth, "initialiser", None)
    if initialiser is not None and initialiser not in INITIALISERS:
        allowed = f"allowed: {', '.join(sorted(INITIALISERS))}"
        problems.append(Problem(f"{path}.growth.initialiser", f"got {initialiser!r}", allowed))
    if start is None:
        return problems
    limit = getattr(model, "max_experts", None)
    if start < 1 or (limit is not None and limit < start):
        found = f"experts = {start}, max_experts = {limit}"
        problems.append(Problem(f"{path}.model", found, "need 1 <= experts <= max_experts"))
    final = construct(GROWTH, growth).final_experts(start, stages)
    rescale = getattr(growth, "reading", None) == "rescale"
    if rescale and limit is not None:
        problems.append(
            Problem(
                f"{path}.model.max_experts",
                f"got {limit} with growth.reading = 'rescale'",
                "leave it out: under this reading the present number of experts sets the widths",
            )
        )
    if final is None and limit is None and not rescale:
        problems.append(
            Problem(
                f"{path}.growth.max_experts",
                "missing",
                "growth by steps needs growth.max_experts or model.max_experts",
            )
        )
    if final is not None and limit is not None and final > limit:
        problems.append(
            Problem(
                f"{path}.growth",
                f"would grow to {final} experts",
                f"model.max_experts = {limit}: raise it, or set growth.max_experts",
            )
        )
    return problems


def with_final_experts(sections: Mapping[str, Any], stages: int) -> dict[str, Any]:
    """Fill in ``max_experts`` of model and growth from each other, so that widths are known."""
    model, growth = sections["model"], sections["growth"]
    if not hasattr(model, "max_experts"):
        return dict(sections)
    final = construct(GROWTH, growth).final_experts(model.experts, stages)
    limit = model.max_experts if model.max_experts is not None else final
    filled = dict(sections)
    if getattr(growth, "reading", None) != "rescale":
        filled["model"] = replace(model, max_experts=limit)
    if hasattr(growth, "max_experts") and growth.max_experts is None:
        filled["growth"] = replace(growth, max_experts=limit)
    return filled
