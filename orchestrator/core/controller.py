"""What to do next: one pure function from (state, event) to (state, actions).

No clock, no randomness, no I/O: folding the journal through ``decide`` gives the state back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from orchestrator.core.actions import (
    Action,
    CloseLane,
    DropLane,
    FinishRun,
    OpenLane,
    RecordFailure,
)
from orchestrator.core.events import (
    CheckpointSaved,
    ClusterChanged,
    EditApplied,
    EvaluationDone,
    Event,
    IntervalDone,
    LaneClosed,
    LaneOpened,
    RunFinished,
    RunInterrupted,
    RunResumed,
    RunStarted,
    StageStarted,
    WorkFailed,
)
from orchestrator.core.merging import lost, opened, unfinished
from orchestrator.core.records import Record
from orchestrator.core.sharing import held_back, scored_alike, source_of, taken, taken_over
from orchestrator.core.state import LaneState, RunState
from orchestrator.core.transitions import (
    checkpointed,
    closed,
    commanded,
    contradicts,
    diverged,
    evaluation,
    fresh_lane,
    resumed,
    shaped,
    skipped,
    stale,
    view,
    with_next_stage,
    with_work,
    without,
)
from orchestrator.policies.base import View
from workers.contract import Json
from workers.edits import Edit

Actions = tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a lane's policies answered: edits in order, and what they remember where it changed."""

    edits: tuple[Edit, ...] = ()
    memory: Mapping[str, Json] = field(default_factory=dict)


class Policies(Protocol):
    """What decides edits: the lanes' policies, or what a journal record holds."""

    def propose(self, lane: str, view: View, memory: Mapping[str, Json]) -> Decision: ...


class Recorded:
    """Policies of a fold: they answer with the edits and memory that the journal holds."""

    def __init__(self, record: Record) -> None:
        self.decision = Decision(record.edits, record.memory)

    def propose(self, lane: str, view: View, memory: Mapping[str, Json]) -> Decision:
        return self.decision


def fold(records: Iterable[Record]) -> tuple[RunState, Actions]:
    """The state a journal leads to, and the actions of its last event."""
    state = RunState()
    actions: Actions = ()
    for record in records:
        state, actions = decide(state, record.event, Recorded(record))
    return state, actions


def decide(state: RunState, event: Event, policies: Policies) -> tuple[RunState, Actions]:
    """The state after the event, and what to do about it.

    An event that no longer counts (a worker's that was given up) gives back the same state.
    """
    match event:
        case RunStarted(plan=plan):
            lanes = {lane.spec.lane: fresh_lane(lane) for lane in plan.lanes}
            return RunState(plan=plan, lanes=lanes), ()
        case RunResumed():
            return _restart(state, event)
        case ClusterChanged():
            return _settle(replace(state, cpus=event.cpus, gpus=event.gpus), (), event.at)
        case RunInterrupted():
            return replace(state, status="interrupted"), ()
        case RunFinished():
            return replace(state, status=event.status), ()
        case EvaluationDone():
            return _measured(state, event)
        case WorkFailed():
            return _failed(state, event)
    lane = state.lanes[event.lane]
    if event.attempt != lane.attempt or not lane.active:
        return state, ()  # an answer of a worker that was given up
    match event:
        case LaneOpened():
            lane = replace(lane, status="running", executed=event.report.seq)
            if not lane.model.layers:
                lane = shaped(lane, event.report.shape)
            return _settle(*_continue(state, lane, ()), event.at)
        case LaneClosed():
            return _settle(_with(state, closed(lane)), (), event.at)
        case EditApplied() if contradicts(lane, event):
            return _refused(state, diverged(event, lane))
        case IntervalDone() if event.report.revision != commanded(lane, event):
            return _refused(state, stale(event, lane))
        case StageStarted() | IntervalDone() | EditApplied() | CheckpointSaved():
            return _answered(state, lane, event, policies)
    raise AssertionError(f"unknown event {event!r}")


# ---------------------------------------------------------------- answers


def _answered(
    state: RunState,
    lane: LaneState,
    event: StageStarted | IntervalDone | EditApplied | CheckpointSaved,
    policies: Policies,
) -> tuple[RunState, Actions]:
    """A command came back: queue what follows from it (once), issue what is next."""
    first = event.seq > lane.answered
    lane = replace(lane, executed=event.seq, answered=max(event.seq, lane.answered))
    actions: Actions = ()
    every = state.plan.checkpoint_every
    match event:
        case StageStarted() if first:
            lane = replace(lane, start=event.report)
            lane = _work(lane, view(lane, 0), policies, every)
        case IntervalDone() if first:
            before = lane.steps_before + lane.steps
            reports = (*lane.reports, event.report)
            lane = replace(lane, steps=event.report.steps, reports=reports)
            lane = _work(lane, view(lane, event.report.n, before), policies, every)
        case EditApplied() if first:
            prints = {**lane.fingerprints, event.seq: event.report.fingerprint}
            lane = shaped(replace(lane, fingerprints=prints), event.report.after)
        case CheckpointSaved():
            lane = checkpointed(lane, event)
            unknown = event.final and event.index not in lane.rows  # so too where it is made anew
            if unknown and lane.plan.scored_after(event.index):
                pending = {**state.evaluations, (lane.name, event.index): event.checkpoint}
                state = replace(state, evaluations=pending)
                actions = (evaluation(lane, event.index, event.checkpoint),)
            return _settle(
                *_continue(state, lane, actions), event.at
            )  # others may wait for the stage
    return _continue(state, lane, actions)


def _work(lane: LaneState, seen: View, policies: Policies, checkpoint_every: int) -> LaneState:
    """Queue what follows an interval, with the edits decided upon it."""
    decision = policies.propose(lane.name, seen, lane.memory)
    lane = replace(lane, memory={**lane.memory, **decision.memory})
    return with_work(lane, seen.n, decision.edits, checkpoint_every)


def _continue(state: RunState, lane: LaneState, actions: Actions) -> tuple[RunState, Actions]:
    """Issue the lane's next command; decide a new stage or the end where none is queued."""
    waiting = [command for command in lane.queue if command.seq > lane.executed]
    if not waiting:
        lane = with_next_stage(lane)
        waiting = [command for command in lane.queue if command.seq > lane.executed]
    if waiting:
        command = replace(waiting[0], attempt=lane.attempt)
        return _with(state, lane), (*actions, command)
    if lane.held:
        return _with(state, lane), actions
    lane = replace(lane, status="closing")
    close = CloseLane(lane=lane.name, attempt=lane.attempt)
    return _with(state, lane), (*actions, close)


def _measured(state: RunState, event: EvaluationDone) -> tuple[RunState, Actions]:
    """A row came: note it, and start the stage that was held for it."""
    if (event.lane, event.index) not in state.evaluations:
        return state, ()
    return _told(state, event.lane, event.index, tuple(event.report.validation), event.at)


def _told(
    state: RunState, name: str, index: int, row: tuple[float, ...], at: float
) -> tuple[RunState, Actions]:
    """The row is known, or given up (empty), to every lane whose model and tasks are these:
    nothing waits for it any longer."""
    rest = {key: ref for key, ref in state.evaluations.items() if key != (name, index)}
    state = replace(state, evaluations=rest)
    actions: Actions = ()
    for lane in scored_alike(name, index, state.lanes):
        lane = replace(lane, rows={**lane.rows, index: row})
        state = _with(state, lane)
        if lane.held and lane.status == "running":
            state, actions = _continue(state, lane, actions)
    return _settle(state, actions, at)


# ---------------------------------------------------------------- starts and failures


def _restart(state: RunState, event: RunResumed) -> tuple[RunState, Actions]:
    """Every worker of an earlier driver is gone: open again what is not done."""
    lanes = {name: resumed(lane, event.settings) for name, lane in state.lanes.items()}
    state = replace(
        state,
        lanes=lanes,
        evaluation_retries={},
        cpus=event.cpus,
        gpus=event.gpus,
        status="running",
    )
    pending = tuple(
        evaluation(state.lanes[name], index, checkpoint)
        for (name, index), checkpoint in state.evaluations.items()
    )
    return _settle(state, pending, event.at)


def _failed(state: RunState, event: WorkFailed) -> tuple[RunState, Actions]:
    """Retry within the budget of this kind of failure, then do what the policy says."""
    if event.scoring:
        return _evaluation_failed(state, event)
    lane = state.lanes[event.lane]
    if event.attempt != lane.attempt or not lane.active:
        return state, ()
    if event.kind == "checkpoint_lost":
        assert lane.base is not None
        lane = replace(without(lane, lane.base.seq), status="waiting")
        return _settle(_with(state, lane), (), event.at)
    budget = state.plan.failures[event.kind]
    skips = budget.then == "skip_stage" and lane.parent is not None
    skips = skips and lane.status != "opening"  # it would not open for the next stage either
    closing = lane.status == "closing"
    count = lane.retries.get(event.kind, 0) + 1
    lane = replace(lane, retries={**lane.retries, event.kind: count}, status="waiting")
    if count <= budget.retries:
        return _settle(_with(state, lane), (), event.at)
    if skips and closing:
        return _settle(_with(state, closed(lane)), (), event.at)
    if skips:
        return _settle(_with(state, skipped(lane)), (), event.at)
    state = _with(state, replace(lane, status="failed"))
    return _settle(state, (), event.at, abort=budget.then == "abort_run")


def _refused(state: RunState, failure: WorkFailed) -> tuple[RunState, Actions]:
    """An answer that shows a failure: it counts now, so its record changes nothing more.

    The worker that gave it is still there, and would hold what the lane no longer counts.
    """
    state, actions = _failed(state, failure)
    return state, (RecordFailure(failure=failure), DropLane(lane=failure.lane), *actions)


def _evaluation_failed(state: RunState, event: WorkFailed) -> tuple[RunState, Actions]:
    key = (event.lane, event.index)
    if key not in state.evaluations:
        return state, ()
    count = state.evaluation_retries.get(key, 0) + 1
    state = replace(state, evaluation_retries={**state.evaluation_retries, key: count})
    budget = state.plan.failures["evaluation"]
    if count <= budget.retries:
        lane = state.lanes[event.lane]
        if event.kind == "model_lost" and lane.plan.course != "alone" and lane.status != "failed":
            return _made_again(state, lane, event)
        return state, (evaluation(lane, event.index, state.evaluations[key]),)
    if budget.then == "skip_stage":
        return _told(state, *key, (), event.at)
    drops: Actions = ()
    for lane in scored_alike(*key, state.lanes):
        # The row stays asked for, so that a resume measures it.
        state = _with(state, replace(lane, status="failed"))
        drops = (*drops, DropLane(lane=lane.name)) if lane.active else drops
    return _settle(state, drops, event.at, abort=budget.then == "abort_run")


def _made_again(state: RunState, lane: LaneState, event: WorkFailed) -> tuple[RunState, Actions]:
    """The model to score is lost: the lane comes to it again, from the checkpoint before it, and
    it is scored then. Where the lane's own work met the loss first, that is under way."""
    seq = lane.ends[event.index].checkpoint.seq
    if any(command.seq == seq for command in lane.queue):
        return state, ()
    drops: Actions = (DropLane(lane=lane.name),) if lane.active else ()
    lane = replace(without(lane, seq), status="waiting")
    return _settle(_with(state, lane), drops, event.at)


def _without_parents(state: RunState, at: float) -> tuple[RunState, Actions]:
    """Lanes fail whose first model is to be made of one that will not come; each says so."""
    told: Actions = ()
    while True:
        orphans = {
            name: parent
            for name, lane in state.lanes.items()
            if lane.status == "waiting" and (parent := lost(lane, state.lanes)) is not None
        }
        if not orphans:
            return state, told
        for name, parent in orphans.items():
            lane = replace(state.lanes[name], status="failed")
            state = _with(state, lane)
            failure = WorkFailed(
                at=at,
                lane=name,
                attempt=lane.attempt,
                kind="stage_error",
                index=-1,
                message=f"its model is made of {parent.name}, which lane {parent.lane} did not "
                "come to: it failed or gave a stage up",
            )
            told = (*told, RecordFailure(failure=failure))


def _settle(
    state: RunState, actions: Actions, at: float, abort: bool = False
) -> tuple[RunState, Actions]:
    """Open what the cluster has room for; finish the run when nothing is left."""
    state, orphans = _without_parents(state, at)
    actions = (*actions, *orphans)
    if abort or _settled(state):
        failed = any(lane.status == "failed" for lane in state.lanes.values())
        return state, (*actions, FinishRun(status="failed" if failed else "done"))
    for name in schedule(state):
        lane = state.lanes[name]
        source = source_of(lane, state.lanes)
        if source is not None:
            state, actions = _take_over(state, taken_over(lane, source), actions)
            lane = state.lanes[name]
        lane = replace(lane, status="opening", attempt=lane.attempt + 1)
        state = _with(state, lane)
        start = OpenLane(
            spec=opened(lane, state.lanes),
            attempt=lane.attempt,
            checkpoint=lane.base,
            taken=taken(lane, state.lanes),
        )
        actions = (*actions, start)
    return state, actions


def _settled(state: RunState) -> bool:
    """Whether no lane has work left, and no evaluation is waited for."""
    ended = all(lane.status in ("done", "failed") for lane in state.lanes.values())
    return ended and all(_spent(state, key) for key in state.evaluations)


def _take_over(state: RunState, lane: LaneState, actions: Actions) -> tuple[RunState, Actions]:
    """The lane has stages that another one trained: their rows of R are known, or under way, where
    a lane that scores them alike has them; others are asked for."""
    state = _with(state, lane)
    for index, end in lane.ends.items():
        if not lane.plan.scored_after(index):
            continue
        alike = scored_alike(lane.name, index, state.lanes)
        rows = [other.rows[index] for other in alike if index in other.rows]
        keys = [(other.name, index) for other in alike]
        if rows:
            lane = replace(lane, rows={**lane.rows, index: rows[0]})
        elif not any(key in state.evaluations and not _spent(state, key) for key in keys):
            asked = {**state.evaluations, (lane.name, index): end.checkpoint}
            state = replace(state, evaluations=asked)
            actions = (*actions, evaluation(lane, index, end.checkpoint))
    return _with(state, lane), actions


def _spent(state: RunState, key: tuple[str, int]) -> bool:
    """Whether an evaluation failed as often as it may: it comes with a resume, if at all."""
    retries = state.plan.failures["evaluation"].retries
    return state.evaluation_retries.get(key, 0) > retries


def schedule(state: RunState) -> tuple[str, ...]:
    """Waiting lanes that fit beside the active ones, in the config's order; those whose first
    stages another lane is to train, or whose model is made of other lanes' models, wait for them
    without holding anything."""
    waiting = [lane for lane in state.lanes.values() if lane.status == "waiting"]
    if not waiting:
        return ()
    cpus = state.cpus - sum(lane.plan.cpus for lane in state.lanes.values() if lane.active)
    gpus = state.gpus - sum(lane.plan.gpus for lane in state.lanes.values() if lane.active)
    ready = []
    for lane in waiting:
        if held_back(lane, state.lanes) or unfinished(lane, state.lanes):
            continue
        if lane.plan.cpus <= cpus + 1e-9 and lane.plan.gpus <= gpus + 1e-9:
            ready.append(lane.name)
            cpus -= lane.plan.cpus
            gpus -= lane.plan.gpus
    return tuple(ready)


def _with(state: RunState, lane: LaneState) -> RunState:
    return replace(state, lanes={**state.lanes, lane.name: lane})
