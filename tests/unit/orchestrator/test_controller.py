"""Single decisions of the controller that no whole run of the other tests depends on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.beginning import begin, joined, takeover
from orchestrator.core.actions import OpenLane, RunInterval
from orchestrator.core.controller import Decision, decide, fold
from orchestrator.core.events import (
    CheckpointSaved,
    EvaluationDone,
    Event,
    LaneOpened,
    StageStarted,
    WorkFailed,
)
from orchestrator.core.records import Record
from orchestrator.core.settling import schedule
from orchestrator.core.state import RunState
from orchestrator.core.transitions import planned_stages, view
from orchestrator.policies.base import View
from tests.fakes import FakeExecutor, tiny
from tests.journals import plan, story
from workers.contract import Json, ModelState
from workers.edits import RefreshMask, SetPhase

LANE = "finetune-s0"


class Asked:
    """Policies that note what they see and decide what they are told to."""

    def __init__(self) -> None:
        self.views: list[View] = []
        self.edits: dict[tuple[int, int], Any] = {}
        """(stage, interval) -> kind of edit to decide."""

    def propose(self, lane: str, view: View, memory: Any) -> Decision:
        self.views.append(view)
        make = self.edits.get((view.stage.index, view.n))
        return Decision(() if make is None else (make(view),), {"p": view.n})


class Run:
    """A run whose events a healthy cluster sends, one at a time."""

    def __init__(self, cpus: float = 2, gpus: float = 0, **changes: Any) -> None:
        self.asked, self.cluster = Asked(), FakeExecutor()
        self.state = RunState()
        self.take(begin(tiny(**changes), "run"))
        self.take(joined(cpus, gpus))

    def take(self, event: Event) -> None:
        self.state, actions = decide(self.state, event, self.asked)
        for action in actions:
            if type(action).__name__ not in ("RecordFailure", "FinishRun"):
                self.cluster.perform(action)

    def until(self, stop: Any) -> Event:
        """Go on until an event for which ``stop`` says yes, which is not taken in."""
        while True:
            (event,) = self.cluster.wait(0)
            if stop(event):
                return event
            self.take(event)

    def fail(self, kind: Any = "stage_error", **changes: Any) -> None:
        """The present worker of the lane fails."""
        failure = WorkFailed(
            at=0.0, lane=LANE, attempt=self.lane.attempt, kind=kind, index=-1, message="x"
        )
        self.cluster.held.discard(LANE)
        self.cluster.queue.clear()
        self.take(replace(failure, **changes))

    @property
    def lane(self) -> Any:
        return self.state.lanes[LANE]


def in_stage(index: int) -> Any:
    return lambda event: isinstance(event, StageStarted) and event.stage.index == index


def test_a_resume_gives_every_budget_back() -> None:
    budget = {"retries": 1, "then": "fail_lane"}
    run = Run(failures={"worker_lost": budget, "evaluation": budget})
    run.until(lambda event: isinstance(event, EvaluationDone))
    run.fail("worker_lost")
    run.fail("evaluation", attempt=0)
    assert dict(run.lane.retries) == {"worker_lost": 1}
    assert dict(run.state.evaluation_retries) == {(LANE, -1): 1}
    run.take(takeover(2, 0))
    assert not run.lane.retries
    assert not run.state.evaluation_retries
    run.cluster.queue.clear()
    run.fail("worker_lost")
    assert run.lane.status == "opening", "the budget is whole again"


def test_policies_see_rows_of_earlier_stages_only() -> None:
    """A stage that is trained again, as its checkpoint was lost, has later rows already."""
    run = Run()
    run.take(run.until(in_stage(1)))
    rows = {-1: (0.1,), 0: (0.5,), 1: (0.7,)}
    seen = view(replace(run.lane, rows=rows), 0).rows
    assert seen == {-1: (0.1,), 0: (0.5,)}
    assert (len(seen), seen.get(0), seen.get(1)) == (2, (0.5,), None)


def test_gpus_in_use_are_not_given_twice() -> None:
    lanes = [{"method": "finetune", "seeds": [0, 1, 2]}]
    run = Run(cpus=8, gpus=2, lanes=lanes, resources={"cpus": 1, "gpus": 1})
    opened = [one.spec.lane for one in run.cluster.performed if isinstance(one, OpenLane)]
    assert opened == ["finetune-s0", "finetune-s1"]
    assert schedule(run.state) == ()
    assert schedule(replace(run.state, gpus=3.0)) == ("finetune-s2",)
    assert schedule(replace(run.state, gpus=3.0, cpus=2.0)) == ()


@pytest.mark.parametrize("event", [joined(4, 2), takeover(4, 2)])
def test_a_cluster_is_known_with_its_gpus(event: Event) -> None:
    state, _ = fold([Record(event=begin(tiny(), "run")), Record(event=event)])
    assert (state.cpus, state.gpus) == (4, 2)


def test_steps_are_counted_from_the_lane_s_beginning() -> None:
    run = Run()
    run.until(in_stage(2))
    seen = [(view.stage.index, view.n, view.steps_before, view.steps) for view in run.asked.views]
    assert seen == [
        (0, 0, 0, 0),
        (0, 1, 0, 10),
        (0, 2, 10, 20),
        (1, 0, 20, 20),
        (1, 1, 20, 30),
        (1, 2, 30, 40),
    ]


def mask(view: View) -> RefreshMask:
    fields = view.edit(policy="p", trigger="t")
    return RefreshMask(**fields, version=1, domains=("d",), masks={"layer": [[1]]})


def phase(view: View) -> SetPhase:
    return SetPhase(**view.edit(policy="p", trigger="t"), phase="all", trains=("experts",))


def test_a_stage_given_up_leaves_the_model_of_the_one_before() -> None:
    run = Run(failures={"stage_error": {"retries": 0, "then": "skip_stage"}})
    run.asked.edits = {(0, 0): phase, (1, 0): mask}
    started = run.until(in_stage(1))
    before: ModelState = run.lane.last.model
    memory: Json = dict(run.lane.memory)
    run.take(started)
    assert run.lane.model.latest(RefreshMask) is not None
    run.fail()
    assert run.lane.model == before
    assert run.lane.model.latest(RefreshMask) is None
    assert run.lane.model.latest(SetPhase) is not None
    assert dict(run.lane.memory) == memory
    assert run.lane.answered == run.lane.next_seq - 1, "nothing of it is waited for"
    run.until(in_stage(2))
    queued = [one for one in run.lane.queue if isinstance(one, RunInterval)]
    assert not queued
    assert run.lane.model.revision == before.revision


def test_answers_and_failures_of_an_old_worker_are_left_out() -> None:
    run = Run()
    started = run.until(in_stage(0))
    run.fail("worker_lost")
    old = replace(started, attempt=1)  # type: ignore[type-var]
    state = run.state
    run.take(old)
    assert run.state is state
    failure = WorkFailed(at=0.0, lane=LANE, attempt=1, kind="worker_lost", index=-1, message="late")
    run.take(failure)
    assert run.state is state


def test_a_repeated_answer_asks_no_policy_again() -> None:
    run = Run(checkpoint_every=1)
    event = run.until(lambda e: type(e).__name__ == "IntervalDone")
    run.take(event)
    asked, queue = len(run.asked.views), run.lane.queue
    run.take(event)
    assert len(run.asked.views) == asked
    assert run.lane.queue == queue
    assert run.lane.answered == event.seq  # type: ignore[union-attr]


def test_a_lane_opens_from_its_last_durable_checkpoint() -> None:
    run = Run(checkpoint_every=1)
    saved = run.until(
        lambda e: type(e).__name__ == "CheckpointSaved" and e.index == 1 and not e.final
    )
    run.take(saved)
    run.fail("worker_lost")
    opened = [one for one in run.cluster.performed if isinstance(one, OpenLane)][-1]
    assert opened.checkpoint == saved.checkpoint  # type: ignore[union-attr]
    assert opened.attempt == 2
    assert isinstance(run.cluster.wait(0)[0], LaneOpened)


def test_what_a_checkpoint_holds_is_not_to_be_done_again() -> None:
    records, seen = story(), 0
    for end, record in enumerate(records, 1):
        if isinstance(record.event, CheckpointSaved):
            queue = fold(records[:end])[0].lanes[record.event.lane].queue
            assert all(command.seq > record.event.seq for command in queue)
            seen += 1
    assert seen > 2


def test_every_stage_has_a_seed_of_its_own() -> None:
    stages = planned_stages(plan([("replay", 0)]).lanes[0])
    assert len({stage.seed for stage in stages}) == len(stages) > 1


class Alternating(Asked):
    """Of two policies each keeps something only where it was heard."""

    def propose(self, lane: str, view: View, memory: Any) -> Decision:
        decided = super().propose(lane, view, memory)
        return replace(decided, memory={f"p{len(self.views) % 2}": view.n})


def test_a_policy_that_keeps_nothing_new_still_has_what_it_kept() -> None:
    run = Run()
    run.asked = Alternating()
    while len(run.asked.views) < 3:
        (event,) = run.cluster.wait(0)
        run.take(event)
    assert set(run.lane.memory) == {"p0", "p1"}
