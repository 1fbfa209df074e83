"""What a run is to do, as frozen values: its lanes, their stages, and what failures may cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from orchestrator.evaluations import EVALUATIONS, Evaluation
from workers.contract import Json, LaneSpec, TaskSpec
from workers.parsing import checked


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRef:
    """Which trial of which search a run is."""

    sweep: str
    trial: str
    attempt: int
    """0, then one more each time the trial goes on from another trial's model."""
    name: str
    """Short text for people: what was chosen."""
    settings: Json
    """What the search chose: dotted key -> value."""
    parent: str | None = None
    """run_id whose stages this attempt took over; None = it began with an untrained model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stem:
    """A lane's first stages that other lanes have too, with the same bits: trained once."""

    lanes: tuple[str, ...]
    """Lanes that have them too, in the order in which they are asked for them: the first one that
    does not fail or give up before trains them."""
    stages: int
    stage: str
    """Id of the last one."""


Course = Literal["stream", "alone", "none"]
"""What a lane's stages go on from: each from the one before, each from the lane's first model, or
there are none and that model is scored as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanePlan:
    """All that deciding about a lane needs to know of it, from its first stage to its last."""

    spec: LaneSpec
    tasks: tuple[TaskSpec, ...]
    """What each stage learns."""
    scored: tuple[TaskSpec, ...] = ()
    """What models are scored on, the columns of R; none = the tasks themselves."""
    learnt_after: tuple[int, ...] = ()
    """Stage at whose end each scored task was learnt; none = each task's own."""
    intervals: int
    """Of each stage."""
    cpus: float
    """What all workers of the lane reserve together."""
    gpus: float
    experts: int = 1
    """Experts of the largest layer at the start."""
    waits_for_scores: bool = False
    """Whether a stage starts only once the model before it was scored."""
    depends: tuple[str, ...]
    """Digest for each stage of what it is trained by, beside task, seed and parent."""
    scored_on: str
    """Digest of what a model is scored on: equal in lanes that score a model alike."""
    stem: Stem | None = None
    """First stages that other lanes train; None = it trains all of its own."""
    course: Course = "stream"
    evaluation: Json = field(default_factory=lambda: {"kind": "all"})
    """What the lane's models are scored on, as an entry of EVALUATIONS reads it."""

    @property
    def stages(self) -> int:
        """Stages that are trained; every model is scored on all tasks."""
        return 0 if self.course == "none" else len(self.tasks)

    @property
    def columns(self) -> tuple[TaskSpec, ...]:
        """What models are scored on."""
        return self.scored or self.tasks

    @property
    def ends(self) -> tuple[int, ...]:
        """Stage at whose end each of the columns was learnt."""
        return self.learnt_after or tuple(range(len(self.tasks)))

    def scored_after(self, index: int) -> tuple[int, ...]:
        """Columns that the model after stage ``index`` (-1 = the first one) is scored on; none =
        it is not scored."""
        return _evaluation(json.dumps(self.evaluation)).columns(index, self.stages, self.ends)


@lru_cache
def _evaluation(told: str) -> Evaluation:
    kind, config = checked(EVALUATIONS, json.loads(told))
    made: Evaluation = kind(config)
    return made


FailureKind = Literal[
    "worker_lost", "stage_error", "diverged", "evaluation", "model_lost", "checkpoint_lost"
]
"""``model_lost``: the checkpoint to score is gone or damaged; its budget is that of ``evaluation``.
``checkpoint_lost``: the one to open is; it needs no budget, as each time there is one less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How often a kind of failure is retried per stage, and what happens then."""

    retries: int
    then: Literal["skip_stage", "fail_lane", "abort_run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """Lanes, failure budgets and checkpoint interval of a run, journalled in its first record.

    A run's state is a function of this plan and the events after it.
    """

    lanes: tuple[LanePlan, ...] = ()
    failures: Mapping[FailureKind, Budget] = field(default_factory=dict)
    checkpoint_every: int = 0
    """Intervals between checkpoints inside a stage; 0 = at stage ends only."""
