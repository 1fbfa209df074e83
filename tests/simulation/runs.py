"""The runs that are simulated: small ones of every kind that the controller treats differently."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from orchestrator.config.run import RunConfig
from orchestrator.core.plans import RunPlan
from orchestrator.policies import Policy, View
from orchestrator.policies.base import Proposal
from tests.fakes import tiny
from workers.contract import Json
from workers.edits import Grow


class Remembers(Policy):
    """Counts what it was asked, and grows by one expert at every other time."""

    proposes: ClassVar[tuple[str, ...]] = ("grow",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """No settings."""

        kind: str = "tests.simulation.runs:Remembers"

    def propose(self, view: View, memory: Json) -> Proposal:
        asked = [*(memory or ()), [view.stage.index, view.n, view.steps, view.steps_before]]
        if len(asked) % 2:
            return (), asked
        fields = view.edit(policy="remembers", trigger="asked twice")
        return (Grow(**fields, experts=view.model.experts + 1),), asked


class Waits(Remembers):
    """Looks at the rows of R, so that a stage waits for the one before it."""

    uses_scores: ClassVar[bool] = True

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """No settings."""

        kind: str = "tests.simulation.runs:Waits"

    def propose(self, view: View, memory: Json) -> Proposal:
        edits, asked = super().propose(view, memory)
        return edits, [*asked[:-1], [*asked[-1], sorted(map(list, view.rows.items()))]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared(RunConfig):
    """A checked config that says its plan and digest without making them again."""

    known: tuple[RunPlan, Json, str]

    def plan(self) -> RunPlan:
        return self.known[0]

    def plain(self) -> Json:
        return self.known[1]

    @property
    def digest(self) -> str:
        return self.known[2]


STREAM = {"kind": "split", "dataset": "digits", "classes_per_task": 5}
VALIDATED = {**STREAM, "validation": 0.1}
TWICE = {"kind": "tests.simulation.runs:Remembers"}
WAITING = {"kind": "tests.simulation.runs:Waits"}
GROWING = {"policies": {"growth": TWICE}}
SKIP = {
    "worker_lost": {"retries": 1, "then": "skip_stage"},
    "stage_error": {"retries": 0, "then": "skip_stage"},
    "evaluation": {"retries": 1, "then": "skip_stage"},
    "diverged": {"retries": 0, "then": "fail_lane"},
}
ABORT = {
    "worker_lost": {"retries": 0, "then": "abort_run"},
    "evaluation": {"retries": 0, "then": "abort_run"},
}
PATIENT = {
    "worker_lost": {"retries": 9, "then": "fail_lane"},
    "stage_error": {"retries": 9, "then": "fail_lane"},
    "evaluation": {"retries": 9, "then": "fail_lane"},
    "diverged": {"retries": 9, "then": "fail_lane"},
}
METHODS = [{"method": "finetune"}, {"method": "replay"}]
MERGED = {
    "model": {"head": {"kind": "mlp", "hidden": [12, 8]}},
    "lanes": [
        {
            "name": "m",
            "model": {
                "experts": 2,
                "head": {
                    "kind": "moe",
                    "hidden": [8],
                    "layer": {
                        "kind": "moe",
                        "selector": {"kind": "topk", "k": 2},
                        "expert": {"kind": "bottleneck", "width": 12},
                    },
                },
            },
            "merge": {"kind": "branch_train_mix", "parents": ["a-s0", "b-s0"]},
        },
        {"name": "a"},
        {"name": "b", "seeds": [0], "method": "replay"},
    ],
}

RUNS: dict[str, tuple[int, dict[str, Any]]] = {
    "one lane": (1, {}),
    "growth": (1, GROWING),
    "checkpoints inside stages": (1, {**GROWING, "checkpoint_every": 1, "failures": PATIENT}),
    "two lanes, little room": (1, {"lanes": METHODS, **GROWING}),
    "two lanes": (2, {"lanes": METHODS, "failures": PATIENT}),
    "two replicas": (2, {"workers": 2, **GROWING, "failures": PATIENT}),
    "stages wait for scores": (
        1,
        {"stream": VALIDATED, "policies": {"growth": WAITING}},
    ),
    "stages are given up": (1, {**GROWING, "failures": SKIP}),
    "lanes give stages up": (2, {"lanes": METHODS, "failures": SKIP}),
    "the run is given up": (2, {"lanes": METHODS, "failures": ABORT}),
    "each task alone": (2, {"baselines": ["scratch", "joint"]}),
    "merged": (2, MERGED),
}
"""Name -> nodes of one CPU, and what differs from the smallest run."""


@cache
def prepared(name: str) -> Prepared:
    """One of the RUNS, checked and planned once."""
    changes = {"stream": STREAM, **RUNS[name][1]}
    config = tiny(**changes)
    return Prepared(
        name=config.name,
        lanes=config.lanes,
        failures=config.failures,
        checkpoint_every=config.checkpoint_every,
        share_stages=config.share_stages,
        known=(config.plan(), config.plain(), config.digest),
    )
