"""What a policy is shown, made up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orchestrator.policies import POLICIES, LaneFacts, Policy, View
from workers.contract import (
    IntervalReport,
    LayerShape,
    ModelState,
    StageSpec,
    StartReport,
    TaskSpec,
)
from workers.edits import Edit
from workers.tables import construct

DOMAINS = ("a", "b", "c")


def facts(**changes: Any) -> LaneFacts:
    tasks = tuple(TaskSpec(index=i, name=name, domain=name) for i, name in enumerate(DOMAINS))
    values = {"tasks": tasks, "domains": DOMAINS, "seed": 0, "intervals": 10, "experts": 4}
    return LaneFacts(**{**values, **changes})


def policy(config: Any, **changes: Any) -> Policy:
    made: Policy = construct(POLICIES, config, facts(**changes))
    return made


def shape(experts: int) -> LayerShape:
    return LayerShape(experts=experts, widths=(4,) * experts, parameters=10 * experts)


def report(n: int, steps: int = 0, **changes: Any) -> IntervalReport:
    return IntervalReport(stage="s", n=n, steps=steps, metrics={}, seconds=0.0, **changes)


def view(
    n: int = 1,
    index: int = 1,
    domain: str = "a",
    *,
    intervals: int = 10,
    layers: dict[str, int] | None = None,
    experts: int = 4,
    after: tuple[Edit, ...] = (),
    seen: dict[str, Any] | None = None,
    **changes: Any,
) -> View:
    """``after``: edits that were decided before; ``seen``: fields of the last interval's report."""
    task = TaskSpec(index=index, name=domain, domain=domain)
    stage = StageSpec(
        index=index, task=task, intervals=intervals, seed=4, parent=None, settings_digest="s"
    )
    found = {name: shape(live) for name, live in (layers or {"l": 4}).items()}
    model = ModelState(experts=experts, layers=found)
    for edit in after:
        model = replace(edit.fold(model), experts=experts)
    values = {
        "stage": stage,
        "stages": 4,
        "n": n,
        "steps": 0,
        "steps_before": 0,
        "start": StartReport(source="", data_digest="", samples=1),
        "reports": tuple(report(i + 1, **(seen or {})) for i in range(n)),
        "model": model,
    }
    return View(**{**values, **changes})
