"""What to do next: one pure function from (state, event) to (state, actions).

No clock, no randomness, no I/O: folding the journal through ``decide`` gives the state back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from orchestrator.core.actions import Actions, CloseLane, DropLane, RecordFailure
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
from orchestrator.core.records import Record
from orchestrator.core.settling import settle, with_lane
from orchestrator.core.sharing import scored_alike
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
            return settle(replace(state, cpus=event.cpus, gpus=event.gpus), (), event.at)
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
            return settle(*_continue(state, lane, ()), event.at)
        case LaneClosed():
            return settle(with_lane(state, closed(lane)), (), event.at)
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
            return settle(
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
        return with_lane(state, lane), (*actions, command)
    if lane.held:
        return with_lane(state, lane), actions
    lane = replace(lane, status="closing")
    close = CloseLane(lane=lane.name, attempt=lane.attempt)
    return with_lane(state, lane), (*actions, close)


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
        state = with_lane(state, lane)
        if lane.held and lane.status == "running":
            state, actions = _continue(state, lane, actions)
    return settle(state, actions, at)


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
    return settle(state, pending, event.at)


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
        return settle(with_lane(state, lane), (), event.at)
    budget = state.plan.failures[event.kind]
    skips = budget.then == "skip_stage" and lane.parent is not None
    skips = skips and lane.status != "opening"  # it would not open for the next stage either
    closing = lane.status == "closing"
    count = lane.retries.get(event.kind, 0) + 1
    lane = replace(lane, retries={**lane.retries, event.kind: count}, status="waiting")
    if count <= budget.retries:
        return settle(with_lane(state, lane), (), event.at)
    if skips and closing:
        return settle(with_lane(state, closed(lane)), (), event.at)
    if skips:
        return settle(with_lane(state, skipped(lane)), (), event.at)
    state = with_lane(state, replace(lane, status="failed"))
    return settle(state, (), event.at, abort=budget.then == "abort_run")


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
        state = with_lane(state, replace(lane, status="failed"))
        drops = (*drops, DropLane(lane=lane.name)) if lane.active else drops
    return settle(state, drops, event.at, abort=budget.then == "abort_run")


def _made_again(state: RunState, lane: LaneState, event: WorkFailed) -> tuple[RunState, Actions]:
    """The model to score is lost: the lane comes to it again, from the checkpoint before it, and
    it is scored then. Where the lane's own work met the loss first, that is under way."""
    seq = lane.ends[event.index].checkpoint.seq
    if any(command.seq == seq for command in lane.queue):
        return state, ()
    drops: Actions = (DropLane(lane=lane.name),) if lane.active else ()
    lane = replace(without(lane, seq), status="waiting")
    return settle(with_lane(state, lane), drops, event.at)
