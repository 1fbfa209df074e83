"""The dry run: which stages a config stands for, what waits for what, and how large models get."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from orchestrator.config.run import LaneConfig, RunConfig
from orchestrator.core.transitions import stage_spec
from orchestrator.policies import View
from workers import trainers
from workers.contract import Json, ModelState, StageSpec, StartReport


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
    """Experts per growable layer during the stage, growth at its start included. Growth inside a
    stage (by steps) counts from the next one on, where a stage's steps are known beforehand. None =
    the model has no experts."""
    parameters: int | None
    """Estimated parameters during the stage; None where the model cannot tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedLane:
    """One lane of the plan."""

    lane: str
    method: str
    seed: int
    trainer: str
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
    decided, tasks, stream = lane.plan(), lane.tasks(), lane.stream()
    growing = {name: p for name, p in lane.live_policies().items() if "grow" in p.proposes}
    memory: dict[str, Json] = {}
    stages: list[PlannedStage] = []
    model = ModelState(experts=lane.experts or 1)
    parent: str | None = None
    for task in tasks:
        stage = stage_spec(decided, task.index, parent)
        view = _at_start(lane, stage, len(tasks), model)
        if lane.experts is not None:
            for name, policy in growing.items():
                edits, memory[name] = policy.propose(view, memory.get(name))
                for edit in edits:
                    view = view.after(edit)
        model = view.model
        experts = None if lane.experts is None else model.experts
        stages.append(
            PlannedStage(
                id=stage.id,
                task=task.name,
                domain=task.domain,
                parent=parent,
                waits_for=parent or "untrained model",
                intervals=stage.intervals,
                experts=experts,
                parameters=trainers.estimate_parameters(stream, lane.sections["model"], experts),
            )
        )
        parent = stage.id
    return PlannedLane(
        lane=lane.name,
        method=lane.sections["method"].kind,
        seed=lane.seed,
        trainer=lane.trainer,
        resources=asdict(lane.resources),
        workers=lane.workers,
        stages=tuple(stages),
    )


def _at_start(lane: LaneConfig, stage: StageSpec, stages: int, model: ModelState) -> View:
    """What a policy sees at a stage's start, as far as it is known before anything was trained:
    where a stage's steps are known, those of the stages before."""
    each = getattr(lane.sections["training"], "steps_per_stage", None) or 0
    return View(
        stage=stage,
        stages=stages,
        n=0,
        steps=stage.index * each,
        steps_before=max(0, stage.index - 1) * each,
        start=StartReport(source="", data_digest="", samples=None),
        model=model,
    )
