"""What a run has come to, for people: its journal read into lanes, stages, edits and the matrix.

Where the run stands the controller's own state tells: records go through the same ``decide``.
Incremental: the command line, the live display, the tracker and searches all add records to it.
Knows no files, no MLflow and no policies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, replace

from orchestrator.core.actions import Actions, OpenLane, RecordFailure
from orchestrator.core.controller import Recorded, decide
from orchestrator.core.events import (
    CheckpointSaved,
    ClusterChanged,
    EditApplied,
    EvaluationDone,
    Event,
    IntervalDone,
    LaneOpened,
    RunFinished,
    RunInterrupted,
    RunResumed,
    RunStarted,
    StageStarted,
    WorkFailed,
)
from orchestrator.core.records import Record
from orchestrator.core.sharing import scored_alike
from orchestrator.core.state import RunState
from orchestrator.report import scores
from orchestrator.report.lane_history import Kept, LaneHistory
from workers.contract import EditReport, Json
from workers.edits import Edit


class RunHistory:
    """A run as far as its journal tells. ``add`` is idempotent for what a recovery repeats."""

    def __init__(self) -> None:
        self.state = RunState()
        """The controller's, after the records so far."""
        self.started: RunStarted | None = None
        self.ended: float | None = None
        self.events = 0
        self.lanes: dict[str, LaneHistory] = {}
        self._shown: list[WorkFailed] = []
        """Failures that an answer showed, whose own record is still to come."""

    @property
    def status(self) -> str:
        """``running``, ``interrupted``, ``failed`` or ``done``."""
        return self.state.status

    def add(self, record: Record) -> bool:
        """Take one record in. False where it only repeats what was known, or no longer counts."""
        self.events += 1
        before, event = self.state, record.event
        self.state, actions = decide(before, event, Recorded(record))
        shown = [action.failure for action in actions if isinstance(action, RecordFailure)]
        self._shown += shown
        counts = self._take_in(event, before, bool(shown))
        self._share(before, event, actions)
        return counts

    def _take_in(self, event: Event, before: RunState, refused: bool) -> bool:
        """What ``add`` does, stages in common apart; ``refused``: the answer shows a failure."""
        match event:
            case RunStarted():
                self._start(event)
            case RunResumed():
                self.ended = None
            case RunInterrupted() | RunFinished():
                self.ended = event.at
            case ClusterChanged():
                return False  # what is learnt does not depend on where
            case WorkFailed() if event in self._shown:
                self._shown.remove(event)
                self._fail(event, before)
            case _ if self.state is before or refused:
                return False
            case WorkFailed():
                self._fail(event, before)
            case EvaluationDone():
                self.lanes[event.lane].measure(event)
            case LaneOpened():
                self.lanes[event.lane].open(event)
            case StageStarted() | IntervalDone() | EditApplied() | CheckpointSaved():
                return self._answered(event, before.lanes[event.lane].answered)
        return True

    def _share(self, before: RunState, event: Event, actions: Actions) -> None:
        """Show stages and rows of R in the lanes for which another one trained or scored them:
        those that open, which may take stages over, and those whose model was scored."""
        names = [action.spec.lane for action in actions if isinstance(action, OpenLane)]
        if isinstance(event, EvaluationDone):
            alike = scored_alike(event.lane, event.index, self.state.lanes)
            names += [lane.name for lane in alike]
        for name in names:
            lane, known, own = self.state.lanes[name], before.lanes[name], self.lanes[name]
            for index, end in lane.ends.items():
                if end.lane != name and index not in known.ends:
                    own.take_over(self.lanes[end.lane], index)
            for index in lane.rows.keys() - known.rows.keys():
                self._share_row(own, index)

    def _share_row(self, own: LaneHistory, index: int) -> None:
        """A row that another lane's evaluation gave, where one did."""
        if index in own.rows or index not in self.state.lanes[own.name].ends:
            return
        alike = scored_alike(own.name, index, self.state.lanes)
        rows = [row for one in alike if (row := self.lanes[one.name].rows.get(index)) is not None]
        if rows:
            own.rows[index] = rows[0]

    def _answered(
        self, event: StageStarted | IntervalDone | EditApplied | CheckpointSaved, known: int
    ) -> bool:
        """The answer to a numbered command counts the first time only."""
        lane = self.lanes[event.lane]
        if event.seq > known:
            lane.answer(event)
        elif isinstance(event, EditApplied):
            lane.apply(event)
        return event.seq > known

    def _fail(self, event: WorkFailed, before: RunState) -> None:
        """Work did not come back; where a lane's own work stood, its state tells."""
        if not event.scoring:
            event = replace(event, index=before.lanes[event.lane].index)
        self.lanes[event.lane].fail(event)

    def _start(self, event: RunStarted) -> None:
        self.started = event
        configs = {lane["name"]: lane for lane in event.config["lanes"]}
        self.lanes = {
            plan.spec.lane: LaneHistory(plan, configs[plan.spec.lane]) for plan in event.plan.lanes
        }

    def lane_status(self, lane: LaneHistory) -> str:
        """``waiting``, ``running``, ``done``, ``failed`` or ``interrupted``."""
        status = self.state.lanes[lane.name].status
        if status in ("done", "failed"):
            return status
        if self.status != "running":
            return "interrupted"
        return "running" if status in ("running", "closing") else "waiting"

    def stage_status(self, lane: LaneHistory, index: int) -> str:
        """``done`` once its checkpoint is durable, ``skipped`` if given up, else as its lane."""
        if lane.stages[index].checkpoint is not None:
            return "done"
        return "skipped" if lane.skipped(index) else self.lane_status(lane)

    def json(self, tracked_offset: int = 0) -> Json:
        """The report as plain JSON: what ``growstage show --json`` prints."""
        assert self.started is not None, "a journal starts with RunStarted"
        return {
            "run_id": self.started.run_id,
            "name": self.started.name,
            "config_digest": self.started.config_digest,
            "code_version": self.started.code_version,
            "modules": dict(self.started.modules),
            "status": self.status,
            "lanes": [self.lane_json(lane) for lane in self.lanes.values()],
            "events": self.events,
            "journal_offset_tracked": tracked_offset,
        }

    # ------------------------------------------------------------ telling

    def lane_json(self, lane: LaneHistory) -> Json:
        """One lane of the report."""
        kept = lane.kept()
        return {
            "lane": lane.name,
            "trainer": lane.plan.spec.trainer,
            "method": lane.method,
            "seed": lane.seed,
            "status": self.lane_status(lane),
            "attempts": lane.opened,
            "failures": lane.failures,
            "start": None if lane.start is None else lane.start.uri,
            "merged": lane.merged,
            "last_failure": None if lane.failure is None else failure_json(lane.failure),
            "stages": [self.stage_json(lane, index, kept) for index in sorted(lane.stages)],
            "tasks": lane.tasks,
            "learnt_after": list(lane.plan.ends),
            "matrix": lane.matrix(),
            "initial": lane.untrained(),
            "validation": lane.validation_matrix(),
            "metrics": scores.of_lane(self.lanes, lane),
            "metrics_from": {
                name: list(terms) for name, terms in scores.from_part(self.lanes, lane).items()
            },
            "evaluation": lane.plan.evaluation,
            "course": lane.plan.course,
            "baselines": dict(lane.baselines),
            "trainability": lane.trainability(len(lane.complete())),
        }

    def stage_json(self, lane: LaneHistory, index: int, kept: Kept | None = None) -> Json:
        """One stage of a lane's report."""
        stage, ref = lane.stages[index], lane.stages[index].checkpoint
        return {
            "id": stage.id,
            "index": index,
            "task": stage.spec.task.name,
            "domain": stage.spec.task.domain,
            "parent": stage.spec.parent,
            "status": self.stage_status(lane, index),
            "intervals": stage.intervals,
            "steps": stage.steps,
            "seconds": round(stage.seconds, 3),
            "data": {"source": stage.data.source, "digest": stage.data.data_digest},
            "checkpoint": None if ref is None else {"uri": ref.uri, "digest": ref.digest},
            "adopted_from": stage.adopted_from,
            "trained_by": stage.trained_by,
            "edits": [edit_json(*pair) for pair in lane.stage_edits(stage.id)],
            "training": stage.training,
            "curve": [None if math.isnan(level) else level for level in stage.curve],
            "routing": lane.routing(index, kept),
            "validation": lane.rows[index].validation if index in lane.rows else [],
            "figures": lane.rows[index].figures if index in lane.rows else {},
            "model_figures": lane.rows[index].model_figures if index in lane.rows else {},
        }


def edit_json(edit: Edit, report: EditReport) -> Json:
    """An applied edit: what was asked for and why, what came of it."""
    return {
        **asdict(edit),
        "noun": edit.noun,
        "text": edit.text(),
        "before": asdict(report.before),
        "after": asdict(report.after),
        "probe_change": report.probe_change,
        "fingerprint": report.fingerprint,
        "parents": report.parents,
        "figures": report.figures,
        "seconds": report.seconds,
    }


def failure_json(failure: WorkFailed) -> Json:
    """What failed and why."""
    return {"kind": failure.kind, "index": failure.index, "message": failure.message}


def report(records: Iterable[Record], tracked_offset: int = 0) -> Json:
    """The report of a whole journal; ``tracked_offset`` = bytes of it that MLflow shows."""
    history = RunHistory()
    for record in records:
        history.add(record)
    return history.json(tracked_offset)
