"""One lane's state: how each answer, decision and failure changes it. Pure, like the controller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.core.actions import (
    ApplyEdit,
    Command,
    Evaluate,
    RunInterval,
    SaveCheckpoint,
    StartStage,
)
from orchestrator.core.events import CheckpointSaved, EditApplied, IntervalDone, WorkFailed
from orchestrator.core.merging import scored
from orchestrator.core.plans import LanePlan
from orchestrator.core.state import Earlier, LaneState, StageEnd
from orchestrator.policies.base import View
from workers.contract import (
    CheckpointRef,
    Json,
    ModelShape,
    ModelState,
    StageSpec,
    derive_seed,
)
from workers.edits import Edit


def stage_spec(plan: LanePlan, index: int, parent: str | None) -> StageSpec:
    """The stage that learns task ``index`` from the model of stage ``parent``."""
    return StageSpec(
        index=index,
        task=plan.tasks[index],
        intervals=plan.intervals,
        seed=derive_seed(plan.spec.seed, "stage", index),
        parent=parent,
        settings_digest=plan.depends[index],
    )


def root(plan: LanePlan) -> str | None:
    """What the lane's first model is: ``LaneSpec.root``."""
    return plan.spec.root


def planned_stages(plan: LanePlan) -> tuple[StageSpec, ...]:
    """The lane's stages as they follow each other where none is given up."""
    stages: list[StageSpec] = []
    for index in range(plan.stages):
        parent = stages[-1].id if stages and plan.course == "stream" else root(plan)
        stages.append(stage_spec(plan, index, parent))
    return tuple(stages)


def fresh_lane(plan: LanePlan) -> LaneState:
    """The lane before its first event."""
    return LaneState(plan=plan, model=ModelState(experts=plan.experts))


def resumed(lane: LaneState, settings: Mapping[str, Json]) -> LaneState:
    """The lane under a new driver, with the settings that it was given: to be opened again unless
    it is done."""
    spec = lane.plan.spec.changed(settings)
    lane = replace(lane, plan=replace(lane.plan, spec=spec))
    return lane if lane.status == "done" else replace(lane, status="waiting", retries={})


def _enqueue(lane: LaneState, command: Command) -> LaneState:
    """Append a command with the lane's next sequence number."""
    numbered = replace(command, seq=lane.next_seq, attempt=lane.attempt)
    return replace(lane, queue=(*lane.queue, numbered), next_seq=lane.next_seq + 1)


def view(lane: LaneState, n: int, steps_before: int | None = None) -> View:
    """What policies see after interval ``n``; ``steps_before`` it, where that is known."""
    assert lane.stage is not None
    assert lane.start is not None
    total = lane.steps_before + lane.steps
    return View(
        stage=lane.stage,
        stages=len(lane.plan.tasks),
        n=n,
        steps=total,
        steps_before=total if steps_before is None else steps_before,
        start=lane.start,
        reports=lane.reports,
        rows=Earlier(lane.rows, lane.stage.index),
        model=lane.model,
        edits=lane.edits,
    )


def with_work(lane: LaneState, n: int, edits: tuple[Edit, ...], checkpoint_every: int) -> LaneState:
    """After interval ``n``: the edits decided now, a checkpoint if due, then what comes next."""
    assert lane.stage is not None
    intervals = lane.stage.intervals
    for edit in edits:
        lane = _enqueue(lane, ApplyEdit(lane=lane.name, attempt=0, seq=0, edit=edit))
        lane = replace(lane, edits=lane.edits + 1, model=edit.fold(lane.model))
    if n >= intervals:
        return _enqueue(lane, _save(lane, final=True))
    if n > 0 and checkpoint_every and n % checkpoint_every == 0:
        lane = _enqueue(lane, _save(lane, final=False))
    revision = lane.model.revision
    interval = RunInterval(lane=lane.name, attempt=0, seq=0, n=n + 1, revision=revision)
    return _enqueue(lane, interval)


def _save(lane: LaneState, final: bool) -> SaveCheckpoint:
    stage = "initial" if lane.stage is None else f"{lane.index:03d}-{lane.stage.id}"
    suffix = "" if final else f"-seq{lane.next_seq}"
    return SaveCheckpoint(
        lane=lane.name,
        attempt=0,
        seq=0,
        index=lane.index,
        final=final,
        name=f"{lane.name}/{stage}{suffix}",
    )


def with_next_stage(lane: LaneState) -> LaneState:
    """Queue the untrained checkpoint, the next stage's start, or nothing: all are learnt, the stage
    is ``held`` until the model it starts from was scored, or its worker holds another model."""
    if lane.base is None:
        return lane if lane.queue else _enqueue(lane, _save(lane, final=True))
    index = lane.index + 1
    if index >= lane.plan.stages or lane.base != lane.parent:
        return lane
    if lane.plan.waits_for_scores and index - 1 not in lane.rows:
        return replace(lane, held=True)
    last = None if lane.parent is None else lane.parent.stage
    parent = root(lane.plan) if last is None else last
    stage = stage_spec(lane.plan, index, parent)
    lane = replace(
        lane,
        held=False,
        stage=stage,
        index=index,
        edits=0,
        start=None,
        reports=(),
        steps_before=lane.steps_before + lane.steps,
        steps=0,
        fingerprints={},
    )
    return _enqueue(lane, StartStage(lane=lane.name, attempt=0, seq=0, stage=stage))


def closed(lane: LaneState) -> LaneState:
    """The lane once its worker was let go: done, or waiting for one that begins the next stage with
    the lane's first model."""
    if lane.index + 1 >= lane.plan.stages or lane.base == lane.parent:
        return replace(lane, status="done")
    return replace(fallen_back(lane), status="waiting")


def fallen_back(lane: LaneState) -> LaneState:
    """The lane with the model that its next stage goes on from."""
    assert lane.last is not None, "an untrained model is not given up"
    return replace(
        lane,
        base=lane.last.checkpoint,
        saves=(),
        behind=(),
        queue=(),
        model=lane.last.model,
        memory=lane.last.memory,
    )


def checkpointed(lane: LaneState, event: CheckpointSaved) -> LaneState:
    """A durable checkpoint: nothing before it need be issued again."""
    rest = tuple(command for command in lane.queue if command.seq > event.seq)
    done = tuple(command for command in lane.queue if command.seq <= event.seq)
    known = lane.ends.get(event.index) if event.final else None
    lane = replace(lane, base=event.checkpoint, queue=rest)
    if known is not None and known.checkpoint.seq == event.seq:  # made anew, as it was lost
        end = replace(known, lane=lane.name, checkpoint=event.checkpoint)
        return replace(lane, ends={**lane.ends, event.index: end})
    begun = 0 if lane.last is None else lane.last.checkpoint.seq
    own = {c.seq: c for c in (*lane.behind, *done) if c.seq > begun}
    if not event.final:
        saves = (*(ref for ref in lane.saves if ref.seq < event.seq), event.checkpoint)
        return replace(lane, saves=saves, behind=tuple(own.values()))
    end = StageEnd(
        lane=lane.name,
        stage=lane.stage,
        checkpoint=event.checkpoint,
        model=lane.model,
        memory=lane.memory,
        steps=lane.steps_before + lane.steps,
        commands=tuple(own.values()),
    )
    ends = {**lane.ends, event.index: end}
    return replace(lane, ends=ends, retries={}, saves=(), behind=())


def without(lane: LaneState, lost: int) -> LaneState:
    """The lane once a checkpoint is lost, which has the number ``lost``: it goes on from the newest
    one before, and what came after is issued again under its old numbers."""
    path = [lane.ends[-1]] if lane.plan.course == "alone" else [*lane.ends.values()]
    refs = [*(end.checkpoint for end in path), *lane.saves]
    older = [ref for ref in refs if ref.seq < lost]
    base = max(older, key=lambda ref: ref.seq, default=None)
    known = [*(command for end in path for command in end.commands), *lane.behind, *lane.queue]
    after = 0 if base is None else base.seq
    queue = {command.seq: _own(command, lane.name) for command in known if command.seq > after}
    return replace(lane, base=base, queue=tuple(queue[seq] for seq in sorted(queue)))


def _own(command: Command, lane: str) -> Command:
    """The command as this lane's, where another one trained the stage for it."""
    if command.lane == lane:
        return command
    if isinstance(command, SaveCheckpoint):
        name = f"{lane}/{command.name.removeprefix(f'{command.lane}/')}"
        return replace(command, lane=lane, name=name)
    return replace(command, lane=lane)


def skipped(lane: LaneState) -> LaneState:
    """Give the stage up: the next one starts from the last complete stage's model, or the lane's
    first one where each task is learnt alone.

    Nothing is given up between two stages, where the next one waits to be scored.
    """
    if not lane.queue:
        return replace(lane, retries={})
    rows = dict(lane.rows)
    before = -1 if lane.plan.course == "alone" else lane.index - 1
    if before in rows:
        rows.setdefault(lane.index, rows[before])  # the same model, so the same scores
    return replace(
        fallen_back(lane),
        rows=rows,
        answered=lane.next_seq - 1,
        steps=0,
        retries={},
    )


def shaped(lane: LaneState, shape: ModelShape) -> LaneState:
    """The lane once its worker told the model's shape."""
    return replace(lane, model=replace(lane.model, layers=shape.layers))


def commanded(lane: LaneState, event: IntervalDone) -> int:
    """Revision at which the answered interval was to be trained."""
    found = [c.revision for c in lane.queue if c.seq == event.seq and isinstance(c, RunInterval)]
    return found[0] if found else event.report.revision


def stale(event: IntervalDone, lane: LaneState) -> WorkFailed:
    """An interval trained at another revision than commanded."""
    return _refusal(
        event,
        lane,
        f"interval {event.report.n} was trained at revision {event.report.revision}, it had to be "
        f"{commanded(lane, event)}",
    )


def evaluation(lane: LaneState, index: int, checkpoint: CheckpointRef) -> Evaluate:
    """Score the model after a stage on the tasks that it is to be scored on."""
    tasks = tuple(lane.plan.columns[place] for place in lane.plan.scored_after(index))
    return Evaluate(spec=scored(lane), index=index, checkpoint=checkpoint, tasks=tasks)


def contradicts(lane: LaneState, event: EditApplied) -> bool:
    """A rerun of an edit that gives another fingerprint than the first time."""
    known = lane.fingerprints.get(event.seq)
    return lane.plan.spec.exact and known is not None and known != event.report.fingerprint


def diverged(event: EditApplied, lane: LaneState) -> WorkFailed:
    """An edit whose rerun gave another model than the first time."""
    return _refusal(
        event,
        lane,
        f"edit {event.edit.id}: fingerprint {event.report.fingerprint}, before it was "
        f"{lane.fingerprints[event.seq]}",
    )


def _refusal(event: IntervalDone | EditApplied, lane: LaneState, message: str) -> WorkFailed:
    return WorkFailed(
        at=event.at,
        lane=event.lane,
        attempt=event.attempt,
        kind="diverged",
        index=lane.index,
        message=message,
    )
