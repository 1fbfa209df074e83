"""The dry run: which stages a config stands for, what waits for what, and how large models get."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.config.run import LaneConfig, RunConfig
from orchestrator.config.sharing import rows_of, trained_by
from orchestrator.core.plans import Course, LanePlan
from orchestrator.core.transitions import planned_stages
from orchestrator.policies import View
from workers import trainers
from workers.contract import InputError, Json, Memory, ModelState, StageSpec, StartReport, digest
from workers.edits import ROLES


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """One stage of the plan."""

    id: str
    task: str
    domain: str
    parent: str | None
    waits_for: str
    """What must be durable before it starts: the parent stage, or the model to begin with."""
    intervals: int
    experts: int | None
    """Experts of the largest layer once the stage has begun, growth at its start included. None =
    the model has no experts, or a policy decides by what is measured."""
    last_experts: int | None
    """The same at the stage's end."""
    parameters: int | None
    """Estimated parameters at the stage's end; None where experts are, or the model cannot tell."""
    trained_by: str | None
    """Lane that trains it for this one too; None = this lane does."""


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
    start: str | None
    """Checkpoint of another run that it begins with."""
    merged: tuple[str, ...]
    """Trained models that its first one is made of, each with its stage."""
    course: Course
    baseline: str | None
    """Baseline that it is there for; None = the file gives the lane."""
    baselines: Json
    """Baseline -> the lane that is this one's."""
    stages: tuple[PlannedStage, ...]
    memory: Memory | None
    """What each worker will need at its peak, with the model as large as it gets; None where
    nothing foretells it."""
    memory_notes: tuple[str, ...]
    """What the figures take for granted."""
    evaluation: Json
    """After which stages its models are scored, and on what."""
    evaluations: int
    """Rows of R that are measured in it, and not in a lane that scores the same models alike."""
    scores: int
    """Cells of R that all its rows have together."""


def plan(config: RunConfig, experts_share: float = 1.0) -> tuple[PlannedLane, ...]:
    """Every lane's stages in order; loads no data and trains nothing.

    ``experts_share``: of each layer's experts, those that masks will let train at once, for the
    memory; above 0, at most 1.
    """
    if not 0.0 < experts_share <= 1.0:
        raise InputError(f"--experts-share: got {experts_share:g}; must be above 0 and at most 1")
    planned = config.plan().lanes
    known = _Known()
    trained, rows = trained_by(planned), rows_of(planned)
    return tuple(
        _lane(lane, decided, trained[lane.name][1:], rows[lane.name], known, experts_share)
        for lane, decided in zip(config.lanes, planned, strict=True)
    )


def as_json(config: RunConfig, lanes: tuple[PlannedLane, ...]) -> Json:
    """The contract of ``growstage plan --json``."""
    return {
        "name": config.name,
        "config_digest": config.digest,
        "lanes": [asdict(lane) for lane in lanes],
        "stages": sum(len(lane.stages) for lane in lanes),
        "stages_to_train": to_train(lanes),
        "stages_of_baselines": to_train(lanes, baselines=True),
        "evaluations": sum(lane.evaluations for lane in lanes),
    }


def first_growth(lane: LaneConfig) -> int | None:
    """Index of the first stage in which a policy adds experts; None where none does, or it depends
    on what is measured."""
    foreseen, stages = _Foreseen(lane), len(lane.tasks())
    grown = (
        stage.index
        for stage in planned_stages(lane.plan())
        if foreseen.stage(stage, stages)[1] not in (None, lane.experts)
    )
    return next(grown, None)


@dataclass(slots=True)
class _Known:
    """What was estimated, by all it depends on; lanes differ in less, seeds above all."""

    memory: dict[str, Memory | None] = field(default_factory=dict)
    parameters: dict[str, int | None] = field(default_factory=dict)


def to_train(lanes: tuple[PlannedLane, ...], baselines: bool = False) -> int:
    """Stages of all lanes, or of those planned as baselines; what several have in common is counted
    once."""
    counted = [lane for lane in lanes if lane.baseline is not None or not baselines]
    return sum(stage.trained_by is None for lane in counted for stage in lane.stages)


def _lane(
    lane: LaneConfig,
    decided: LanePlan,
    trained: list[str],
    evaluations: int,
    known: _Known,
    share: float,
) -> PlannedLane:
    tasks, stream = lane.tasks(), lane.stream()
    foreseen = _Foreseen(lane)
    stages: list[PlannedStage] = []
    last: int | None = lane.experts
    for stage, owner in zip(planned_stages(decided), trained, strict=True):
        task = stage.task
        first, last = foreseen.stage(stage, len(tasks))
        stages.append(
            PlannedStage(
                id=stage.id,
                task=task.name,
                domain=task.domain,
                parent=stage.parent,
                waits_for=_before(lane, stage),
                intervals=stage.intervals,
                experts=first,
                last_experts=last,
                parameters=_parameters(lane, stream, last, known),
                trained_by=None if owner == lane.name else owner,
            )
        )
    memory, notes = _memory(lane, last, known, share)
    return PlannedLane(
        lane=lane.name,
        method=lane.sections["method"].kind,
        seed=lane.seed,
        trainer=lane.trainer,
        resources=asdict(lane.resources),
        workers=lane.workers,
        start=None if lane.start is None else lane.start.checkpoint.uri,
        merged=() if lane.merged is None else tuple(p.name for p in lane.merged.parents),
        course=lane.course,
        baseline=lane.baseline,
        baselines=dict(lane.baselines),
        stages=tuple(stages),
        memory=memory,
        memory_notes=notes,
        evaluation=asdict(lane.evaluation),
        evaluations=evaluations,
        scores=sum(len(decided.scored_after(index)) for index in range(-1, decided.stages)),
    )


def _parameters(lane: LaneConfig, stream: Any, experts: int | None, known: _Known) -> int | None:
    """Of the model with so many experts."""
    model = lane.sections["model"]
    key = digest([repr(model), list(stream.input_shape), stream.outputs, experts])
    if key not in known.parameters:
        known.parameters[key] = trainers.estimate_parameters(stream, model, experts)
    return known.parameters[key]


def _memory(
    lane: LaneConfig, last: int | None, known: _Known, share: float
) -> tuple[Memory | None, tuple[str, ...]]:
    """What a worker needs with ``last`` experts, or with as many as are known of; and notes."""
    sections, policies = lane.sections, lane.live_policies()
    experts = last or lane.max_experts or lane.experts
    device = "cuda" if lane.resources.gpus else "cpu"
    trains = tuple(dict.fromkeys(roles for p in policies.values() for roles in p.trains))
    told = [repr(sections[name]) for name in ("stream", "model", "training")]
    key = digest([told, lane.trainer, experts, lane.workers, trains, device, share])
    if key not in known.memory:
        parts = lane.stream(), sections["model"], sections["training"]
        known.memory[key] = trainers.estimate_memory(
            lane.trainer, *parts, experts, lane.workers, trains, device, share
        )
    memory, notes = known.memory[key], []
    if memory is None:
        return None, ()
    if last is None and lane.experts is not None:
        notes.append(f"growth depends on what is measured: counted with {experts} experts")
    choosing = [name for name, policy in policies.items() if policy.chooses_experts]
    if share < 1.0:
        notes.append(f"{share:.1%} of each layer's experts are taken to train")
    elif choosing and ROLES not in trains:
        notes.append(f"{', '.join(choosing)} trains experts known once measured: all are counted")
    if trainers.enlarges_batches(sections["method"].kind):
        notes.append("samples that the method adds to batches are not counted")
    if memory.total is None:
        notes.append("activations are not known: an op of the model does not run without data")
    return memory, tuple(notes)


def _before(lane: LaneConfig, stage: StageSpec) -> str:
    """The model that the stage goes on from."""
    if stage.index == 0 and lane.start is not None:
        return f"model {lane.start.checkpoint.digest[:16]}"
    if stage.index == 0 and lane.merged is not None:
        parents = [f"{parent.name} ({parent.stage})" for parent in lane.merged.parents]
        return f"{lane.merged.way['kind']} of {', '.join(parents)}"
    return stage.parent or "untrained model"


class _Foreseen:
    """Growth as far as it is known before anything was trained: the policies that grow a model
    are asked as the driver will ask them, with steps but without reports."""

    def __init__(self, lane: LaneConfig) -> None:
        self.steps: int | None = lane.sections["training"].steps_per_stage
        growing = {name: p for name, p in lane.live_policies().items() if "grow" in p.proposes}
        known = all(policy.foreseeable(self.steps) for policy in growing.values())
        self.known = known and lane.experts is not None
        self.growing = growing if self.known else {}
        self.memory: dict[str, Json] = {}
        self.model = ModelState(experts=lane.experts or 1)
        self.done = 0
        """Steps at the decision before."""

    def stage(self, stage: StageSpec, stages: int) -> tuple[int | None, int | None]:
        """Experts of the largest layer once the stage has begun, and at its end."""
        counts = [self._experts(stage, stages, n) for n in range(stage.intervals + 1)]
        return (counts[0], counts[-1]) if self.known else (None, None)

    def _experts(self, stage: StageSpec, stages: int, n: int) -> int:
        each = self.steps or 0
        steps = stage.index * each + each * n // stage.intervals
        view = View(
            stage=stage,
            stages=stages,
            n=n,
            steps=steps,
            steps_before=self.done,
            start=StartReport(source="", data_digest="", samples=None),
            model=self.model,
        )
        for name, policy in self.growing.items():
            if stage.index < policy.first_stage:
                continue
            edits, self.memory[name] = policy.propose(view, self.memory.get(name))
            for edit in edits:
                view = view.after(edit)
        self.model, self.done = view.model, steps
        return self.model.experts
