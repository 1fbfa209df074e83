"""What must hold of every history, looked at from its journal, its checkpoints and its store."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from contextlib import redirect_stderr
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from orchestrator.core.controller import fold
from orchestrator.core.events import (
    CheckpointSaved,
    EditApplied,
    Event,
    RunResumed,
    StageStarted,
    WorkFailed,
)
from orchestrator.core.journal import JOURNAL_FILE, read
from orchestrator.core.records import Record
from orchestrator.core.state import LaneState, RunState
from orchestrator.report.history import RunHistory
from orchestrator.tracking.store import Store
from orchestrator.tracking.tracker import Tracker
from tests.simulation import pages
from tests.simulation.chance import FAULTS, must
from tests.simulation.history import URI, Seen, tell
from tests.simulation.server import Server
from tests.simulation.trainer import CHECKPOINTS, Model, in_place


def check(seen: Seen) -> int:
    """Raises Violation where a law is broken; the number of the journal's records."""
    records = [record for record, _ in read(seen.folder / JOURNAL_FILE)]
    history, budgets = RunHistory(), Budgets()
    for record in records:
        before = history.state
        history.add(record)
        budgets.add(record.event, before, history)
    state = history.state
    must(state.status == seen.status, "the journal ends otherwise than its driver")
    _nothing_twice(records)
    for lane in state.lanes.values():
        _models(lane, records, seen.lost if state.status == "failed" else set())
        _complete(lane, state)
    _as_undisturbed(seen, state)
    _told(history, records)
    _tracked(seen)
    return len(records)


def _nothing_twice(records: list[Record]) -> None:
    """Each edit is decided once, each stage and each lane's first model is saved once."""
    decided = Counter(
        (edit.id, getattr(record.event, "lane", "")) for record in records for edit in record.edits
    )
    must(all(n == 1 for n in decided.values()), "an edit was decided twice:", decided)
    saved = Counter(
        (event.lane, event.index)
        for event in (record.event for record in records)
        if isinstance(event, CheckpointSaved) and event.final
    )
    failed = {event.kind for event in (r.event for r in records) if isinstance(event, WorkFailed)}
    if failed & {"checkpoint_lost", "model_lost"}:
        return  # it is made anew
    must(all(n == 1 for n in saved.values()), "a stage was saved twice:", saved)
    by_stage = Counter(
        event.checkpoint.stage
        for event in (record.event for record in records)
        if isinstance(event, CheckpointSaved) and event.final and event.index >= 0
    )
    must(
        failed or all(n == 1 for n in by_stage.values()),
        "a stage of several lanes was trained twice:",
        by_stage,
    )


class Budgets:
    """No kind of failure is met more often than its budget allows, nor is a lane given up before.

    Counted here by itself: from the lane's last complete stage, or the driver's start.
    """

    def __init__(self) -> None:
        self.failures: dict[str, Counter[str]] = defaultdict(Counter)
        self.told: Counter[str] = Counter()

    def add(self, event: Event, before: RunState, history: RunHistory) -> None:
        """One more event, after which the history stands so."""
        state = history.state
        match event:
            case RunResumed():
                self.failures.clear()
                counted = any(lane.retries for lane in state.lanes.values())
                must(
                    not counted and not state.evaluation_retries,
                    "an earlier driver's failures count",
                )
            case CheckpointSaved(final=True):
                self.failures.pop(event.lane, None)
            case WorkFailed() if history.lanes[event.lane].failures > self.told[event.lane]:
                self.told[event.lane] += 1
                self._count(event, before, state)

    def _count(self, failure: WorkFailed, before: RunState, state: RunState) -> None:
        if failure.kind == "checkpoint_lost" or failure.message.startswith("its model is made"):
            return
        lane = failure.lane
        budget = state.plan.failures["evaluation" if failure.scoring else failure.kind]
        kind = f"evaluation {failure.index}" if failure.scoring else failure.kind
        self.failures[lane][kind] += 1
        count, status = self.failures[lane][kind], state.lanes[lane].status
        must(count <= budget.retries + 1, lane, kind, "met", count, "times")
        if count <= budget.retries:
            must(status != "failed" or before.lanes[lane].status == "failed", lane, "fails early")
        elif budget.then != "skip_stage":
            must(status == "failed", lane, "goes on though its budget is spent")
        if count > budget.retries and not failure.scoring:
            self.failures.pop(lane)


def _models(lane: LaneState, records: list[Record], lost: set[str]) -> None:
    """Every model was made by what the journal says, each once and in order; a run that failed may
    not have come to make ``lost`` ones again."""
    kept = {end.checkpoint.stage for end in lane.ends.values()}
    decided = [edit for record in records for edit in record.edits if edit.stage in kept]
    for index, end in lane.ends.items():
        uri = end.checkpoint.uri
        if uri not in CHECKPOINTS and uri in lost:
            continue
        ref, model = CHECKPOINTS[uri]
        must(ref == end.checkpoint, "a checkpoint is not what the journal says:", ref)
        _in_order(model, lane.plan.intervals)
        stages = [deed[1] for deed in model.deeds if deed[0] == "stage"]
        must(len(stages) == len(set(stages)), "a stage was trained twice in one model:", stages)
        must((stages[-1] if stages else None) == ref.stage, "a model of another stage:", ref)
        edits = [deed[1] for deed in model.deeds if deed[0] == "edit"]
        wanted = {edit.id for edit in decided if edit.stage in stages}
        must(len(edits) == len(set(edits)), "an edit was applied twice:", edits)
        must(set(edits) == wanted, "other edits than decided:", edits, wanted)
        must(model.revision == end.model.revision, "another revision than the state's", index)
        must(model.experts == end.model.experts, "other experts than the state's", index)


def _in_order(model: Model, intervals: int) -> None:
    revision, n = 0, intervals
    must(model.deeds[0][0] == "begun", "a model that did not begin")
    for deed in model.deeds[1:]:
        match deed:
            case ("stage", _):
                must(n == intervals, "a stage with", n, "of", intervals, "intervals")
                n = 0
            case ("interval", number, at):
                must((number, at) == (n + 1, revision), "interval", deed, "after", n, revision)
                n = number
            case ("edit", _, at):
                must(at == revision + 1, "edit", deed, "at revision", revision)
                revision = at
    must(n == intervals, "a model saved after", n, "of", intervals, "intervals")


def _complete(lane: LaneState, state: RunState) -> None:
    """A lane that is done has all it was to do: no action was lost."""
    if lane.status != "done" or state.status == "failed":
        return
    skips = state.plan.failures["evaluation"].then == "skip_stage"
    wanted = set(range(-1, lane.plan.stages))
    given_up = any(one.then == "skip_stage" for one in state.plan.failures.values())
    must(
        given_up or set(lane.ends) == wanted, lane.name, "is done without", wanted - set(lane.ends)
    )
    must(skips or set(lane.ends) <= set(lane.rows), lane.name, "has no row for", set(lane.ends))
    must(not [key for key in state.evaluations if key[0] == lane.name], "an evaluation is open")


def _as_undisturbed(seen: Seen, state: RunState) -> None:
    """Lanes that gave nothing up end with the bits of the run that nothing disturbed."""
    whole = undisturbed(seen.run)
    for name, lane in state.lanes.items():
        stages = [end.checkpoint.stage for end in lane.ends.values()]
        wanted = whole[name]
        if any(
            index not in wanted or wanted[index][0] != stage
            for index, stage in zip(lane.ends, stages, strict=True)
        ):
            given_up = any(one.then == "skip_stage" for one in state.plan.failures.values())
            must(given_up, name, "has other stages than undisturbed")
            continue
        for index, end in lane.ends.items():
            must(end.checkpoint.digest == wanted[index][1], name, index, "has other bits")
            must(dict(end.memory) == wanted[index][2], name, index, "remembers otherwise")
            must(end.steps == wanted[index][3], name, index, "has other steps")


@cache
def undisturbed(run: str) -> dict[str, dict[int, tuple[object, ...]]]:
    """Lane -> stage index -> (stage, digest, memory, steps) where no fault happens."""
    with TemporaryDirectory() as folder, in_place():
        seen = tell(Random(0), run, Path(folder) / "run", without=tuple(FAULTS))
        state, _ = fold(record for record, _ in read(seen.folder / JOURNAL_FILE))
    must(state.status == "done", "undisturbed and not done")
    return {
        name: {
            index: (end.checkpoint.stage, end.checkpoint.digest, dict(end.memory), end.steps)
            for index, end in lane.ends.items()
        }
        for name, lane in state.lanes.items()
    }


def _told(history: RunHistory, records: list[Record]) -> None:
    """The report is of the same run: state, stages, edits and rows."""
    told = history.json()
    for lane, report in zip(history.state.lanes.values(), told["lanes"], strict=True):
        saved = {stage["index"] for stage in report["stages"] if stage["checkpoint"] is not None}
        must(saved == {index for index in lane.ends if index >= 0}, "the report has other stages")
    begun = {
        (event.lane, event.stage.id)
        for event in (record.event for record in records)
        if isinstance(event, StageStarted)
    }
    shown = {
        (report["lane"], stage["id"])
        for report in told["lanes"]
        for stage in report["stages"]
        if stage["trained_by"] is None
    }
    must(shown <= begun, "the report shows stages that did not start:", shown - begun)
    applied = {
        (record.event.lane, record.event.edit.id)
        for record in records
        if isinstance(record.event, EditApplied)
    }
    edits = {
        (lane["lane"], edit["id"])
        for lane in told["lanes"]
        for stage in lane["stages"]
        if stage["trained_by"] is None
        for edit in stage["edits"]
    }
    must(edits <= applied, "the report shows edits that were not applied:", edits - applied)


def _tracked(seen: Seen) -> None:
    """The store shows what a healthy one shows that is given the whole journal at once."""
    server = Server()
    path = seen.folder / "whole"
    path.mkdir()
    with redirect_stderr(io.StringIO()):
        (path / JOURNAL_FILE).write_bytes((seen.folder / JOURNAL_FILE).read_bytes())
        Tracker(path, URI, Store(path, URI, connect=server.connect), drawn=pages).project()
    found, wanted = seen.server.shown(), server.shown()
    for kind in ("runs", "models"):
        must(found[kind].keys() == wanted[kind].keys(), "other", kind, "than the journal's")
        for key, told in wanted[kind].items():
            for what, value in told.items():
                must(
                    found[kind][key][what] == value,
                    "the store's",
                    kind,
                    key,
                    what,
                    "is",
                    found[kind][key][what],
                    "not",
                    value,
                )
