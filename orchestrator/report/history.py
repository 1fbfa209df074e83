"""What a run has come to: a fold of its journal into lanes, stages, edits and the matrix.

Pure and incremental: the command line, the live display and the tracker all add records to it.
Knows no files, no MLflow and no policies.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from orchestrator.core.events import (
    CheckpointSaved,
    ClusterChanged,
    EditApplied,
    EvaluationDone,
    Event,
    IntervalDone,
    LaneClosed,
    LaneOpened,
    Record,
    RunFinished,
    RunInterrupted,
    RunResumed,
    RunStarted,
    StageStarted,
    WorkFailed,
)
from orchestrator.report.lane_history import LaneFold, answered, measured, tried
from orchestrator.report.metrics import summarise
from workers.contract import (
    Edit,
    EditReport,
    Json,
)


class RunFold:
    """A run as far as its journal tells. ``add`` is idempotent for what a recovery repeats."""

    def __init__(self) -> None:
        self.started: RunStarted | None = None
        self.status = "running"
        self.ended: float | None = None
        self.events = 0
        self.lanes: dict[str, LaneFold] = {}

    def add(self, record: Record) -> bool:
        """Take one record in. False where it only repeats what was known, or no longer counts."""
        self.events += 1
        event = record.event
        match event:
            case RunStarted():
                return self._start(event)
            case RunResumed():
                return self._resume()
            case ClusterChanged():
                return False  # what is learnt does not depend on where
            case RunInterrupted():
                self.status, self.ended = "interrupted", event.at
                return True
            case RunFinished():
                self.status, self.ended = event.status, event.at
                return True
        return self._add_to_lane(self.lanes[event.lane], event)

    def lane_status(self, lane: LaneFold) -> str:
        """``waiting``, ``running``, ``done``, ``failed`` or ``interrupted``."""
        if lane.closed or lane.failed:
            return "failed" if lane.failed else "done"
        if self.status != "running":
            return "interrupted"
        return "running" if lane.attempt > lane.lost else "waiting"

    def stage_status(self, lane: LaneFold, index: int) -> str:
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
            "status": self.status,
            "lanes": [self.lane_json(lane) for lane in self.lanes.values()],
            "events": self.events,
            "journal_offset_tracked": tracked_offset,
        }

    # ------------------------------------------------------------ taking events in

    def _start(self, event: RunStarted) -> bool:
        self.started = event
        self.lanes = {
            lane["name"]: LaneFold(lane["name"], lane["method"]["kind"], lane["seed"], lane)
            for lane in event.config["lanes"]
        }
        return True

    def _resume(self) -> bool:
        self.status, self.ended = "running", None
        for lane in self.lanes.values():
            lane.lost, lane.failed = lane.attempt, False
            lane.retries, lane.row_retries = {}, {}
        return True

    def _add_to_lane(self, lane: LaneFold, event: Event) -> bool:
        match event:
            case EvaluationDone():
                return measured(lane, event)
            case WorkFailed():
                return self._work_failed(lane, event)
            case _ if lane.failed or event.attempt <= lane.lost:  # type: ignore[union-attr]
                return False
            case LaneOpened():
                lane.attempt = event.attempt
                lane.backend, lane.shape = event.report.backend, event.report.shape
                for name, layer in event.report.shape.layers.items():
                    lane.founders.setdefault(name, layer.experts)
                return True
            case LaneClosed():
                lane.closed = True
                return True
            case StageStarted() | IntervalDone() | EditApplied() | CheckpointSaved():
                return answered(lane, event)
        raise AssertionError(f"unknown event {event!r}")

    def _work_failed(self, lane: LaneFold, event: WorkFailed) -> bool:
        """Count it against the config's budget, as the controller does."""
        assert self.started is not None
        count = tried(lane, event)
        if not count:
            return False
        lane.failures, lane.failure = lane.failures + 1, event
        budget = self.started.config.get("failures", {}).get(event.kind)
        if budget is None or count <= budget["retries"]:
            return True
        row = event.kind == "evaluation"
        opening = lane.attempt < event.attempt
        if budget["then"] != "skip_stage" or not (row or (lane.saved and not opening)):
            lane.failed, lane.closed = True, False
        elif not row:
            lane.retries = {}
        return True

    # ------------------------------------------------------------ telling

    def lane_json(self, lane: LaneFold) -> Json:
        """One lane of the report."""
        return {
            "lane": lane.name,
            "method": lane.method,
            "seed": lane.seed,
            "status": self.lane_status(lane),
            "attempts": lane.attempt,
            "failures": lane.failures,
            "last_failure": None if lane.failure is None else failure_json(lane.failure),
            "stages": [self.stage_json(lane, index) for index in sorted(lane.stages)],
            "tasks": lane.tasks(),
            "matrix": lane.matrix(),
            "initial": lane.untrained(),
            "metrics": summarise(lane.complete(), lane.untrained()),
        }

    def stage_json(self, lane: LaneFold, index: int) -> Json:
        """One stage of a lane's report."""
        stage, ref = lane.stages[index], lane.stages[index].checkpoint
        return {
            "id": stage.spec.id,
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
            "edits": [edit_json(*pair) for pair in lane.stage_edits(stage.spec.id)],
            "routing": lane.routing(index),
            "validation": lane.rows[index].validation if index in lane.rows else [],
            "figures": lane.rows[index].figures if index in lane.rows else {},
            "model_figures": lane.rows[index].model_figures if index in lane.rows else {},
        }


def edit_json(edit: Edit, report: EditReport) -> Json:
    """An applied edit: what was asked for and why, what came of it."""
    return {
        **asdict(edit),
        "before": asdict(report.before),
        "after": asdict(report.after),
        "probe_change": report.probe_change,
        "fingerprint": report.fingerprint,
        "parents": report.parents,
        "seconds": report.seconds,
    }


def failure_json(failure: WorkFailed) -> Json:
    """What failed and why."""
    return {"kind": failure.kind, "index": failure.index, "message": failure.message}


def report(records: Iterable[Record], tracked_offset: int = 0) -> Json:
    """The report of a whole journal; ``tracked_offset`` = bytes of it that MLflow shows."""
    fold = RunFold()
    for record in records:
        fold.add(record)
    return fold.json(tracked_offset)
