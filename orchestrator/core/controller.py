"""What to do next: one pure function from (state, event) to (state, actions).

No clock, no randomness, no I/O: folding the journal through ``decide`` gives the state back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from orchestrator.config.file import Failures, RunConfig
from orchestrator.core.events import (
    Action,
    CheckpointSaved,
    CloseLane,
    ClusterChanged,
    DropLane,
    EditApplied,
    Evaluate,
    EvaluationDone,
    Event,
    FinishRun,
    IntervalDone,
    LaneClosed,
    LaneOpened,
    OpenLane,
    Record,
    RecordFailure,
    RunFinished,
    RunInterrupted,
    RunResumed,
    RunStarted,
    StageStarted,
    WorkFailed,
)
from orchestrator.core.state import LaneState, RunState
from orchestrator.core.transitions import (
    checkpointed,
    commanded_mask,
    contradicts,
    counted,
    diverged,
    evaluation,
    fresh_lane,
    progress,
    shaped,
    skipped,
    stale,
    with_next_stage,
    with_work,
)
from orchestrator.policies.growth import Progress
from workers.contract import Edit

Actions = tuple[Action, ...]


class Policies(Protocol):
    """What decides edits: the lanes' policies, or the edits a journal record holds."""

    def propose(self, lane: str, progress: Progress) -> tuple[Edit, ...]: ...


class Controller:
    """The run's fixed facts (config, tasks) around the pure ``decide``."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.failures: Failures = config.failures

    def start(self) -> RunState:
        """The state before the first event."""
        lanes = {lane.name: fresh_lane(lane) for lane in self.config.lanes}
        return RunState(lanes=lanes)

    def decide(self, state: RunState, event: Event, policies: Policies) -> tuple[RunState, Actions]:
        """The state after the event, and what to do about it."""
        match event:
            case RunStarted() | RunResumed():
                return self._restart(state, event)
            case ClusterChanged():
                return self._settle(replace(state, cpus=event.cpus, gpus=event.gpus), ())
            case RunInterrupted():
                return replace(state, status="interrupted"), ()
            case RunFinished():
                return replace(state, status=event.status), ()
            case EvaluationDone():
                return self._settle(_without_evaluation(state, event.lane, event.index), ())
            case WorkFailed():
                return self._failed(state, event)
        lane = state.lanes[event.lane]
        if event.attempt != lane.attempt or not lane.active:
            return state, ()  # an answer of a worker that was given up
        match event:
            case LaneOpened():
                lane = replace(lane, status="running", executed=event.report.seq)
                if not lane.special.layers:
                    lane = shaped(lane, event.report.shape)
                return self._continue(state, lane, ())
            case LaneClosed():
                return self._settle(_with(state, replace(lane, status="done")), ())
            case EditApplied() if contradicts(lane, event):
                return self._refused(state, diverged(event, lane))
            case IntervalDone() if event.report.mask_version != commanded_mask(lane, event):
                return self._refused(state, stale(event, lane))
            case StageStarted() | IntervalDone() | EditApplied() | CheckpointSaved():
                return self._answered(state, lane, event, policies)
        raise AssertionError(f"unknown event {event!r}")

    # ------------------------------------------------------------ answers

    def _answered(
        self,
        state: RunState,
        lane: LaneState,
        event: StageStarted | IntervalDone | EditApplied | CheckpointSaved,
        policies: Policies,
    ) -> tuple[RunState, Actions]:
        """A command came back: queue what follows from it (once), issue what is next."""
        first = event.seq > lane.answered
        lane = replace(lane, executed=event.seq, answered=max(event.seq, lane.answered))
        actions: Actions = ()
        match event:
            case StageStarted() if first:
                lane = self._work(lane, progress(lane, 0, None), policies)
            case IntervalDone() if first:
                before = lane.steps_before + lane.steps
                lane = counted(replace(lane, steps=event.report.steps), event.report)
                told = progress(lane, event.report.n, event.report, before)
                lane = self._work(lane, told, policies)
            case EditApplied() if first:
                prints = {**lane.fingerprints, event.seq: event.report.fingerprint}
                lane = shaped(replace(lane, fingerprints=prints), event.report.after)
            case CheckpointSaved():
                lane = checkpointed(lane, event)
                if event.final and first:
                    key = (lane.spec.lane, event.index)
                    pending = {**state.evaluations, key: event.checkpoint}
                    state = replace(state, evaluations=pending)
                    actions = (evaluation(lane, event.index, event),)
        return self._continue(state, lane, actions)

    def _work(self, lane: LaneState, told: Progress, policies: Policies) -> LaneState:
        """Queue what follows an interval, with the edits decided upon it inside a stage."""
        inside = told.n < told.stage.intervals
        edits = policies.propose(lane.spec.lane, told) if inside else ()
        return with_work(lane, told.n, edits, self.config.checkpoint_every)

    def _continue(
        self, state: RunState, lane: LaneState, actions: Actions
    ) -> tuple[RunState, Actions]:
        """Issue the lane's next command; decide a new stage or the end where none is queued."""
        waiting = [command for command in lane.queue if command.seq > lane.executed]
        if not waiting:
            lane = with_next_stage(lane)
            waiting = [command for command in lane.queue if command.seq > lane.executed]
        if waiting:
            command = replace(waiting[0], attempt=lane.attempt)
            return _with(state, lane), (*actions, command)
        lane = replace(lane, status="closing")
        close = CloseLane(lane=lane.spec.lane, attempt=lane.attempt)
        return _with(state, lane), (*actions, close)

    # ------------------------------------------------------------ starts and failures

    def _restart(self, state: RunState, event: RunStarted | RunResumed) -> tuple[RunState, Actions]:
        """Every worker of an earlier driver is gone: open again what is not done."""
        lanes = {
            name: lane if lane.status == "done" else replace(lane, status="waiting", retries={})
            for name, lane in state.lanes.items()
        }
        state = replace(
            state,
            lanes=lanes,
            evaluation_retries={},
            cpus=event.cpus,
            gpus=event.gpus,
            status="running",
        )
        pending = tuple(
            Evaluate(
                spec=state.lanes[name].spec,
                index=index,
                checkpoint=checkpoint,
                tasks=state.lanes[name].tasks,
            )
            for (name, index), checkpoint in state.evaluations.items()
        )
        return self._settle(state, pending)

    def _failed(self, state: RunState, event: WorkFailed) -> tuple[RunState, Actions]:
        """Retry within the budget of this kind of failure, then do what the policy says."""
        if event.kind == "evaluation":
            return self._evaluation_failed(state, event)
        lane = state.lanes[event.lane]
        if event.attempt != lane.attempt or not lane.active:
            return state, ()
        budget = getattr(self.failures, event.kind)
        skips = budget.then == "skip_stage" and lane.parent is not None
        skips = skips and lane.status != "opening"  # it would not open for the next stage either
        count = lane.retries.get(event.kind, 0) + 1
        lane = replace(lane, retries={**lane.retries, event.kind: count}, status="waiting")
        if count <= budget.retries:
            return self._settle(_with(state, lane), ())
        if skips:
            return self._settle(_with(state, skipped(lane)), ())
        state = _with(state, replace(lane, status="failed"))
        return self._settle(state, (), abort=budget.then == "abort_run")

    def _refused(self, state: RunState, failure: WorkFailed) -> tuple[RunState, Actions]:
        """An answer that shows a failure: it counts now, so its record changes nothing more.

        The worker that gave it is still there, and would hold what the lane no longer counts.
        """
        state, actions = self._failed(state, failure)
        return state, (RecordFailure(failure=failure), DropLane(lane=failure.lane), *actions)

    def _evaluation_failed(self, state: RunState, event: WorkFailed) -> tuple[RunState, Actions]:
        key = (event.lane, event.index)
        if key not in state.evaluations:
            return state, ()
        count = state.evaluation_retries.get(key, 0) + 1
        state = replace(state, evaluation_retries={**state.evaluation_retries, key: count})
        lane, budget = state.lanes[event.lane], self.failures.evaluation
        if count <= budget.retries:
            action = Evaluate(
                spec=lane.spec,
                index=event.index,
                checkpoint=state.evaluations[key],
                tasks=lane.tasks,
            )
            return state, (action,)
        if budget.then != "skip_stage":
            # The row stays asked for, so that a resume measures it.
            state = _with(state, replace(lane, status="failed"))
            drop = (DropLane(lane=event.lane),) if lane.active else ()
            return self._settle(state, drop, abort=budget.then == "abort_run")
        return self._settle(_without_evaluation(state, *key), ())

    def _settle(
        self, state: RunState, actions: Actions, abort: bool = False
    ) -> tuple[RunState, Actions]:
        """Open what the cluster has room for; finish the run when nothing is left."""
        failed = {name for name, lane in state.lanes.items() if lane.status == "failed"}
        retries = self.failures.evaluation.retries
        pending = [
            key for key in state.evaluations if state.evaluation_retries.get(key, 0) <= retries
        ]
        settled = all(lane.status in ("done", "failed") for lane in state.lanes.values())
        if abort or (settled and not pending):
            return state, (*actions, FinishRun(status="failed" if failed else "done"))
        ready = schedule(state)
        for name in ready:
            lane = state.lanes[name]
            lane = replace(lane, status="opening", attempt=lane.attempt + 1)
            state = _with(state, lane)
            actions = (
                *actions,
                OpenLane(spec=lane.spec, attempt=lane.attempt, checkpoint=lane.base),
            )
        return state, actions


def schedule(state: RunState) -> tuple[str, ...]:
    """Waiting lanes that fit beside the active ones, in the config's order."""
    cpus = state.cpus - sum(lane.resources.cpus for lane in state.lanes.values() if lane.active)
    gpus = state.gpus - sum(lane.resources.gpus for lane in state.lanes.values() if lane.active)
    ready = []
    for name, lane in state.lanes.items():
        if lane.status != "waiting":
            continue
        if lane.resources.cpus <= cpus + 1e-9 and lane.resources.gpus <= gpus + 1e-9:
            ready.append(name)
            cpus -= lane.resources.cpus
            gpus -= lane.resources.gpus
    return tuple(ready)


class Recorded:
    """Policies of a fold: they answer with the edits the journal holds."""

    def __init__(self, edits: tuple[Edit, ...]) -> None:
        self.edits = edits

    def propose(self, lane: str, progress: Progress) -> tuple[Edit, ...]:
        return self.edits


def fold(controller: Controller, records: Iterable[Record]) -> tuple[RunState, Actions]:
    """The state a journal leads to, and the actions of its last event."""
    state = controller.start()
    actions: Actions = ()
    for record in records:
        state, actions = controller.decide(state, record.event, Recorded(record.edits))
    return state, actions


def _with(state: RunState, lane: LaneState) -> RunState:
    return replace(state, lanes={**state.lanes, lane.spec.lane: lane})


def _without_evaluation(state: RunState, lane: str, index: int) -> RunState:
    rest = {key: ref for key, ref in state.evaluations.items() if key != (lane, index)}
    return replace(state, evaluations=rest)
