"""What to do next: one pure function from (state, event) to (state, actions).

No clock, no randomness, no I/O: folding the journal through ``decide`` gives the state back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import zip_longest
from typing import Protocol

from orchestrator.config import Failures, LaneConfig, RunConfig
from orchestrator.events import (
    Action,
    ApplyEdit,
    CheckpointSaved,
    CloseLane,
    ClusterChanged,
    Command,
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
    RunFinished,
    RunInterrupted,
    RunInterval,
    RunResumed,
    RunStarted,
    SaveCheckpoint,
    StageStarted,
    StartStage,
    WorkFailed,
)
from orchestrator.policies.growth import Progress
from orchestrator.state import LaneResources, LaneState, RunState, Specialisation
from workers.contract import (
    Edit,
    Grow,
    IntervalReport,
    ModelShape,
    RefreshMask,
    SetPhase,
    StageSpec,
    derive_seed,
    digest,
)

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
        lanes = {lane.name: _lane_state(lane) for lane in self.config.lanes}
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
                    lane = _shaped(lane, event.report.shape)
                return self._continue(state, lane, ())
            case LaneClosed():
                return self._settle(_with(state, replace(lane, status="done")), ())
            case EditApplied() if _contradicts(lane, event):
                failure = _diverged(event, lane)
                return self._failed(state, failure)
            case IntervalDone() if event.report.mask_version != _commanded(lane, event):
                return self._failed(state, _stale(event, lane))
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
                lane = _enqueue_work(lane, 0, None, policies, self.config)
            case IntervalDone() if first:
                before = lane.steps_before + lane.steps
                lane = _counted(replace(lane, steps=event.report.steps), event.report)
                lane = _enqueue_work(
                    lane, event.report.n, event.report, policies, self.config, before
                )
            case EditApplied() if first:
                prints = {**lane.fingerprints, event.seq: event.report.fingerprint}
                lane = _shaped(replace(lane, fingerprints=prints), event.report.after)
            case CheckpointSaved():
                lane = _checkpointed(lane, event)
                if event.final and first:
                    key = (lane.spec.lane, event.index)
                    pending = {**state.evaluations, key: event.checkpoint}
                    state = replace(state, evaluations=pending)
                    actions = (_evaluate(lane, event.index, event),)
        return self._continue(state, lane, actions)

    def _continue(
        self, state: RunState, lane: LaneState, actions: Actions
    ) -> tuple[RunState, Actions]:
        """Issue the lane's next command; decide a new stage or the end where none is queued."""
        waiting = [command for command in lane.queue if command.seq > lane.executed]
        if not waiting:
            lane = _next_stage(lane)
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
        count = lane.retries.get(event.kind, 0) + 1
        lane = replace(lane, retries={**lane.retries, event.kind: count}, status="waiting")
        if count <= budget.retries:
            return self._settle(_with(state, lane), ())
        if budget.then == "skip_stage" and lane.parent is not None:
            return self._settle(_with(state, _skipped(lane)), ())
        state = _with(state, replace(lane, status="failed"))
        return self._settle(state, (), abort=budget.then == "abort_run")

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
            return self._settle(state, (), abort=budget.then == "abort_run")
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


def stage_spec(lane: LaneState, index: int, parent: str | None) -> StageSpec:
    """The stage that learns task ``index`` from the model of stage ``parent``."""
    settings = digest(lane.spec.settings)
    return StageSpec(
        index=index,
        task=lane.tasks[index],
        intervals=lane.intervals,
        seed=derive_seed(lane.spec.seed, "stage", index),
        parent=parent,
        settings_digest=settings,
    )


def _lane_state(lane: LaneConfig) -> LaneState:
    experts = getattr(lane.model, "experts", 1)
    return LaneState(
        spec=lane.spec(),
        tasks=lane.tasks(),
        intervals=lane.training.intervals,
        resources=LaneResources(cpus=lane.cpus, gpus=lane.gpus),
        experts=experts,
        parent_experts=experts,
    )


def _with(state: RunState, lane: LaneState) -> RunState:
    return replace(state, lanes={**state.lanes, lane.spec.lane: lane})


def _without_evaluation(state: RunState, lane: str, index: int) -> RunState:
    rest = {key: ref for key, ref in state.evaluations.items() if key != (lane, index)}
    return replace(state, evaluations=rest)


def _enqueue(lane: LaneState, command: Command) -> LaneState:
    """Append a command with the lane's next sequence number."""
    numbered = replace(command, seq=lane.next_seq, attempt=lane.attempt)
    return replace(lane, queue=(*lane.queue, numbered), next_seq=lane.next_seq + 1)


def _enqueue_work(
    lane: LaneState,
    n: int,
    report: IntervalReport | None,
    policies: Policies,
    config: RunConfig,
    steps_before: int | None = None,
) -> LaneState:
    """After interval ``n``: the edits decided now, a checkpoint if due, then what comes next."""
    assert lane.stage is not None
    name, total = lane.spec.lane, lane.steps_before + lane.steps
    if n < lane.stage.intervals:
        progress = Progress(
            stage=lane.stage,
            stages=len(lane.tasks),
            n=n,
            steps=total,
            steps_before=total if steps_before is None else steps_before,
            experts=lane.experts,
            edits=lane.edits,
            report=report,
            mask=lane.special.mask,
            phase=lane.special.phase,
            counts=lane.special.counts,
            tokens=lane.special.tokens,
            layers=lane.special.layers,
        )
        for edit in policies.propose(name, progress):
            lane = _enqueue(lane, ApplyEdit(lane=name, attempt=0, seq=0, edit=edit))
            lane = _edited(lane, edit)
        if n > 0 and config.checkpoint_every and n % config.checkpoint_every == 0:
            lane = _enqueue(lane, _save(lane, final=False))
        version = lane.special.version
        run = RunInterval(lane=name, attempt=0, seq=0, n=n + 1, mask_version=version)
        return _enqueue(lane, run)
    return _enqueue(lane, _save(lane, final=True))


def _save(lane: LaneState, final: bool) -> SaveCheckpoint:
    stage = "initial" if lane.stage is None else f"{lane.index:03d}-{lane.stage.id}"
    suffix = "" if final else f"-seq{lane.next_seq}"
    return SaveCheckpoint(
        lane=lane.spec.lane,
        attempt=0,
        seq=0,
        index=lane.index,
        final=final,
        name=f"{lane.spec.lane}/{stage}{suffix}",
    )


def _next_stage(lane: LaneState) -> LaneState:
    """Queue the untrained checkpoint, the next stage's start, or nothing when all are learnt."""
    if lane.base is None:
        return lane if lane.queue else _enqueue(lane, _save(lane, final=True))
    index = lane.index + 1
    if index >= len(lane.tasks):
        return lane
    parent = lane.parent.stage if lane.parent is not None else None
    stage = stage_spec(lane, index, parent)
    special = lane.special
    if special.mask is None:
        special = replace(special, counts={}, tokens={})  # masks begin with this stage's tokens
    lane = replace(
        lane,
        special=special,
        stage=stage,
        index=index,
        edits=0,
        steps_before=lane.steps_before + lane.steps,
        steps=0,
        fingerprints={},
        retries={},
    )
    return _enqueue(lane, StartStage(lane=lane.spec.lane, attempt=0, seq=0, stage=stage))


def _checkpointed(lane: LaneState, event: CheckpointSaved) -> LaneState:
    """A durable checkpoint: nothing before it need be issued again."""
    rest = tuple(command for command in lane.queue if command.seq > event.seq)
    lane = replace(lane, base=event.checkpoint, queue=rest)
    if event.final:
        lane = replace(
            lane,
            parent=event.checkpoint,
            parent_experts=lane.experts,
            parent_special=lane.special,
        )
    return lane


def _skipped(lane: LaneState) -> LaneState:
    """Give the stage up: the next one starts from the last complete stage's model."""
    return replace(
        lane,
        base=lane.parent,
        queue=(),
        experts=lane.parent_experts,
        special=lane.parent_special,
        answered=lane.next_seq - 1,
        steps=0,
    )


def _edited(lane: LaneState, edit: Edit) -> LaneState:
    """The lane once the edit is decided."""
    lane = replace(lane, edits=lane.edits + 1)
    match edit:
        case Grow():
            return replace(lane, experts=edit.experts)
        case RefreshMask():
            special = replace(lane.special, mask=edit, counts={}, tokens={})
        case SetPhase():
            special = replace(lane.special, phase=edit)
    return replace(lane, special=special)


def _shaped(lane: LaneState, shape: ModelShape) -> LaneState:
    layers = {name: layer.experts for name, layer in shape.layers.items()}
    return replace(lane, special=replace(lane.special, layers=layers))


def _counted(lane: LaneState, report: IntervalReport) -> LaneState:
    """The interval's counts on top of those since the last mask; integers, so exact."""
    if not report.tokens:
        return lane
    special = lane.special
    counts = {
        layer: {**special.counts.get(layer, {}), **_sums(special, layer, rows)}
        for layer, rows in report.counts.items()
    }
    tokens = {
        domain: special.tokens.get(domain, 0) + number for domain, number in report.tokens.items()
    }
    special = replace(
        special, counts={**special.counts, **counts}, tokens={**special.tokens, **tokens}
    )
    return replace(lane, special=special)


def _sums(
    special: Specialisation, layer: str, rows: Mapping[str, list[int]]
) -> dict[str, list[int]]:
    known = special.counts.get(layer, {})
    return {
        domain: [a + b for a, b in zip_longest(known.get(domain, ()), row, fillvalue=0)]
        for domain, row in rows.items()
    }


def _commanded(lane: LaneState, event: IntervalDone) -> int:
    """Version of the masks that the answered interval was to be trained under."""
    found = [
        c.mask_version for c in lane.queue if c.seq == event.seq and isinstance(c, RunInterval)
    ]
    return found[0] if found else event.report.mask_version


def _stale(event: IntervalDone, lane: LaneState) -> WorkFailed:
    return WorkFailed(
        at=event.at,
        lane=event.lane,
        attempt=event.attempt,
        kind="diverged",
        index=lane.index,
        message=f"interval {event.report.n} was trained under mask version "
        f"{event.report.mask_version}, it had to be {_commanded(lane, event)}",
    )


def _evaluate(lane: LaneState, index: int, event: CheckpointSaved) -> Evaluate:
    return Evaluate(spec=lane.spec, index=index, checkpoint=event.checkpoint, tasks=lane.tasks)


def _contradicts(lane: LaneState, event: EditApplied) -> bool:
    """A rerun of an edit that gives another fingerprint than the first time."""
    known = lane.fingerprints.get(event.seq)
    return lane.spec.exact and known is not None and known != event.report.fingerprint


def _diverged(event: EditApplied, lane: LaneState) -> WorkFailed:
    return WorkFailed(
        at=event.at,
        lane=event.lane,
        attempt=event.attempt,
        kind="diverged",
        index=lane.index,
        message=f"edit {event.edit.id}: fingerprint {event.report.fingerprint}, before it was "
        f"{lane.fingerprints[event.seq]}",
    )
