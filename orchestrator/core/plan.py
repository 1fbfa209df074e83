"""The dry run: which stages a config stands for, what waits for what, and how large models get."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from orchestrator.config.file import LaneConfig, RunConfig
from orchestrator.core.state import LaneResources, LaneState
from orchestrator.core.transitions import stage_spec
from orchestrator.policies import GROWTH
from orchestrator.policies.growth import Progress
from workers import trainers
from workers.contract import Json, StageSpec
from workers.tables import construct


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """One stage of the plan."""

    id: str
    task: str
    domain: str
    parent: str | None
    waits_for: str
    """What must be durable before it starts: the parent stage, or the untrained model."""
    intervals: int
    experts: int | None
    """Experts per growable layer during the stage, growth at its start included; growth inside a
    stage (by steps) cannot be foreseen and is not counted. None = the model has no experts."""
    parameters: int | None
    """Estimated parameters during the stage; None where the model cannot tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedLane:
    """One lane of the plan."""

    lane: str
    method: str
    seed: int
    engine: str
    resources: Json
    """What each of its workers reserves."""
    workers: int
    stages: tuple[PlannedStage, ...]


def plan(config: RunConfig) -> tuple[PlannedLane, ...]:
    """Every lane's stages in order; loads no data and trains nothing."""
    return tuple(_lane(lane) for lane in config.lanes)


def as_json(config: RunConfig, lanes: tuple[PlannedLane, ...]) -> Json:
    """The contract of ``growstage plan --json``."""
    return {
        "name": config.name,
        "config_digest": config.digest,
        "lanes": [asdict(lane) for lane in lanes],
        "stages": sum(len(lane.stages) for lane in lanes),
        "evaluations": sum(len(lane.stages) + 1 for lane in lanes),
    }


def _lane(lane: LaneConfig) -> PlannedLane:
    spec, tasks = lane.spec(), lane.tasks()
    state = LaneState(
        spec=spec,
        tasks=tasks,
        intervals=lane.training.intervals,
        resources=LaneResources(cpus=lane.cpus, gpus=lane.gpus),
    )
    stream = construct(trainers.streams(), lane.stream, lane.seed)
    policy = construct(GROWTH, lane.growth)
    stages: list[PlannedStage] = []
    experts: int | None = getattr(lane.model, "experts", None)
    parent: str | None = None
    for task in tasks:
        stage = stage_spec(state, task.index, parent)
        if experts is not None:
            for edit in policy.propose(_at_start(stage, len(tasks), experts)):
                experts = edit.experts
        stages.append(
            PlannedStage(
                id=stage.id,
                task=task.name,
                domain=task.domain,
                parent=parent,
                waits_for=parent or "untrained model",
                intervals=stage.intervals,
                experts=experts,
                parameters=trainers.estimate_parameters(stream, lane.model, experts),
            )
        )
        parent = stage.id
    return PlannedLane(
        lane=lane.name,
        method=lane.method.kind,
        seed=lane.seed,
        engine=lane.engine,
        resources=asdict(lane.resources),
        workers=lane.workers,
        stages=tuple(stages),
    )


def _at_start(stage: StageSpec, stages: int, experts: int) -> Progress:
    return Progress(
        stage=stage,
        stages=stages,
        n=0,
        steps=0,
        steps_before=0,
        experts=experts,
        edits=0,
        report=None,
    )
