"""What follows once nothing else does: lanes that there is room for are opened, and the run ends
when nothing is left. Pure, like the controller."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.core.actions import Actions, FinishRun, OpenLane, RecordFailure
from orchestrator.core.events import WorkFailed
from orchestrator.core.merging import lost, opened, unfinished
from orchestrator.core.sharing import held_back, scored_alike, source_of, taken, taken_over
from orchestrator.core.state import LaneState, RunState
from orchestrator.core.transitions import evaluation


def settle(
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
        state = with_lane(state, lane)
        start = OpenLane(
            spec=opened(lane, state.lanes),
            attempt=lane.attempt,
            checkpoint=lane.base,
            taken=taken(lane, state.lanes),
        )
        actions = (*actions, start)
    return state, actions


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
            state = with_lane(state, lane)
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


def _settled(state: RunState) -> bool:
    """Whether no lane has work left, and no evaluation is waited for."""
    ended = all(lane.status in ("done", "failed") for lane in state.lanes.values())
    return ended and all(_spent(state, key) for key in state.evaluations)


def _take_over(state: RunState, lane: LaneState, actions: Actions) -> tuple[RunState, Actions]:
    """The lane has stages that another one trained: their rows of R are known, or under way, where
    a lane that scores them alike has them; others are asked for."""
    state = with_lane(state, lane)
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
    return with_lane(state, lane), actions


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


def with_lane(state: RunState, lane: LaneState) -> RunState:
    return replace(state, lanes={**state.lanes, lane.name: lane})
