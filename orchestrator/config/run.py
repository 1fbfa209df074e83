"""What a run and a lane are once their config is checked: frozen values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from orchestrator.config import sharing
from orchestrator.config.sections import changeable
from orchestrator.core.plans import Budget, Course, LanePlan, RunPlan
from orchestrator.evaluations import All
from orchestrator.policies import POLICIES, LaneFacts, Policy
from workers import trainers
from workers.contract import (
    Json,
    LaneSpec,
    Merged,
    Start,
    TaskSpec,
    WithExperts,
    digest,
    domains_of,
)
from workers.tables import construct


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one worker of a lane reserves on the cluster."""

    cpus: float = 1.0
    gpus: float = 0.0
    custom: dict[str, float] = field(default_factory=dict)
    """Ray's custom resources by name."""
    evaluator_cpus: float = 0.0
    """0 = the evaluator runs beside the lanes without reserving a core."""
    evaluator_gpus: float = 0.0

    def __post_init__(self) -> None:
        for name in ("cpus", "gpus", "evaluator_cpus", "evaluator_gpus"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Failure policy: a budget for each kind of failure."""

    worker_lost: Budget = field(default_factory=lambda: Budget(retries=3, then="fail_lane"))
    stage_error: Budget = field(default_factory=lambda: Budget(retries=0, then="fail_lane"))
    diverged: Budget = field(default_factory=lambda: Budget(retries=0, then="abort_run"))
    evaluation: Budget = field(default_factory=lambda: Budget(retries=2, then="fail_lane"))


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneConfig:
    """One pass over a stream, fully expanded: one entry per lane and seed."""

    name: str
    seed: int
    trainer: str
    """Key of ``workers.trainers.TRAINERS``."""
    sections: Mapping[str, Any]
    """``stream``, ``model``, ``training``, ``method`` -> Config."""
    policies: Mapping[str, Any] = field(default_factory=dict)
    """Name -> Config, in the order in which they are asked."""
    resources: Resources = Resources()
    evaluation: Any = field(default_factory=All.Config)
    """Config of an entry of EVALUATIONS."""
    strict_ops: bool = False
    """Whether a missing compiled kernel is an error."""
    workers: int = 1
    """Workers that train the lane together; each reserves ``resources``."""
    start: Start | None = None
    """Model of another run that the lane begins with; None = an untrained one."""
    merged: Merged | None = None
    """Trained models that its first one is made of."""
    course: Course = "stream"
    baseline: str | None = None
    """Baseline that it was planned as, for other lanes; None = the file gives it."""
    baselines: Mapping[str, str] = field(default_factory=dict)
    """Baseline (``orchestrator.config.baselines``) -> the lane that is this one's."""

    @property
    def cpus(self) -> float:
        """CPUs that the lane holds: all its workers', and its evaluator's where stages wait for
        scores, since it would wait for room while they hold theirs."""
        beside = self.resources.evaluator_cpus if self.waits_for_scores else 0.0
        return self.workers * self.resources.cpus + beside

    @property
    def gpus(self) -> float:
        """GPUs that the lane holds, like ``cpus``."""
        beside = self.resources.evaluator_gpus if self.waits_for_scores else 0.0
        return self.workers * self.resources.gpus + beside

    @property
    def waits_for_scores(self) -> bool:
        """Whether a stage starts only once the model before it was scored."""
        return any(policy.uses_scores for policy in self.live_policies().values())

    @property
    def intervals(self) -> int:
        """Intervals of each stage."""
        found: int = self.sections["training"].intervals
        return found

    @property
    def experts(self) -> int | None:
        """Experts of the largest layer at the start; None = a model that knows no experts."""
        if self.start is not None:
            return self.start.experts
        model = self.sections["model"]
        return model.experts if isinstance(model, WithExperts) else None

    @property
    def max_experts(self) -> int | None:
        """What the model's config bounds them to; None = nothing."""
        model = self.sections["model"]
        return model.max_experts if isinstance(model, WithExperts) else None

    def stream(self) -> Any:
        """The stream itself; loads no data."""
        return construct(trainers.streams(), self.sections["stream"], self.seed)

    def tasks(self) -> tuple[TaskSpec, ...]:
        """The stream's tasks in order, named without loading their data."""
        return tuple(self.stream().tasks())

    def scored_tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks that its models are scored on: others where stages are not tasks."""
        return tuple(self.stream().scored_tasks())

    @property
    def stages_are_tasks(self) -> bool:
        """Whether each stage learns one of the tasks that models are scored on."""
        return [task.name for task in self.scored_tasks()] == [task.name for task in self.tasks()]

    def validates(self) -> bool:
        """Whether every task has a validation part, so that its rows can be chosen by."""
        found: bool = self.sections["training"].validates(self.stream())
        return found

    def live_policies(self) -> dict[str, Policy]:
        """The lane's policies by name, in the order in which they are asked."""
        tasks = self.tasks()
        facts = LaneFacts(
            tasks=tasks,
            domains=domains_of(tasks),
            seed=self.seed,
            intervals=self.intervals,
            experts=self.experts,
        )
        return {name: construct(POLICIES, config, facts) for name, config in self.policies.items()}

    def spec(self) -> LaneSpec:
        """What a worker needs to know of the lane."""
        policies = self.live_policies().values()
        wanted = [name for policy in policies for name in policy.start_diagnostics]
        return LaneSpec(
            lane=self.name,
            trainer=self.trainer,
            method=self.sections["method"].kind,
            seed=self.seed,
            settings=_plain(self.sections),
            policies=_plain(self.policies),
            start_diagnostics=tuple(dict.fromkeys(wanted)),
            signals=self._signals(),
            by_domain=any(policy.by_domain for policy in policies),
            threads=max(1, int(self.resources.cpus)),
            exact=trainers.TRAINERS[self.trainer].exact,
            strict_ops=self.strict_ops,
            workers=self.workers,
            changeable=changeable(self.sections),
            start=self.start,
            merged=self.merged,
        )

    def _signals(self) -> tuple[str, ...]:
        """Signals that policies watch and that only come where they are asked for."""
        costly = trainers.signals(self.trainer).on_request
        watched = [name for policy in self.live_policies().values() for name in policy.watches]
        return tuple(sorted({name for name in watched if name in costly}))

    def plan(self) -> LanePlan:
        """What deciding about the lane needs to know of it."""
        return LanePlan(
            spec=self.spec(),
            tasks=self.tasks(),
            scored=self.scored_tasks(),
            learnt_after=tuple(self.stream().learnt_after()),
            intervals=self.intervals,
            cpus=self.cpus,
            gpus=self.gpus,
            experts=self.experts or 1,
            waits_for_scores=self.waits_for_scores,
            depends=sharing.stage_digests(self),
            scored_on=sharing.scored_on(self),
            course=self.course,
            evaluation=_plain(self.evaluation),
        )

    def plain(self) -> Json:
        """The lane as plain JSON, its sections beside its other keys."""
        rest = {
            item.name: getattr(self, item.name) for item in fields(self) if item.name != "sections"
        }
        return _plain({**rest, **self.sections})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """A whole run: its lanes and what holds for all of them."""

    name: str
    lanes: tuple[LaneConfig, ...]
    failures: Failures = Failures()
    checkpoint_every: int = 0
    """Intervals between checkpoints inside a stage; 0 = at stage ends only."""
    share_stages: bool = True
    """Whether first stages that several lanes have in common are trained once."""

    def plain(self) -> Json:
        """The config as plain JSON, as journalled."""
        return {
            "name": self.name,
            "lanes": [lane.plain() for lane in self.lanes],
            "failures": _plain(self.failures),
            "checkpoint_every": self.checkpoint_every,
            "share_stages": self.share_stages,
        }

    def plan(self) -> RunPlan:
        """What the run is to do."""
        lanes = tuple(lane.plan() for lane in self.lanes)
        return RunPlan(
            lanes=sharing.with_stems(self.lanes, lanes) if self.share_stages else lanes,
            failures={item.name: getattr(self.failures, item.name) for item in fields(Failures)},  # type: ignore[misc]
            checkpoint_every=self.checkpoint_every,
        )

    @property
    def digest(self) -> str:
        return digest(self.plain())

    def lane(self, name: str) -> LaneConfig:
        return next(lane for lane in self.lanes if lane.name == name)


def _plain(value: Any) -> Any:
    """Dataclasses, mappings and tuples as plain JSON."""

    @dataclass
    class Whole:
        value: Any

    held = dict(value) if isinstance(value, Mapping) else value
    return json.loads(json.dumps(asdict(Whole(held))["value"]))
