"""What a tracker must show for each journal record: records in, writes (plain values) out.

Pure: knows names, tags, params, metric keys and step axes, but no MLflow and no run ids. Writes
name runs and models by keys that are the same on every replay.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

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
from orchestrator.core.plans import TrialRef
from orchestrator.core.records import Record
from orchestrator.core.sharing import scored_alike
from orchestrator.report.history import RunHistory
from orchestrator.report.lane_history import LaneHistory
from orchestrator.tracking import models
from orchestrator.tracking.labels import Labels
from orchestrator.tracking.matrices import Matrices
from orchestrator.tracking.naming import flatten, milliseconds, point
from orchestrator.tracking.points import (
    method_means,
    of_interval,
    of_row,
    of_scores,
    of_shape,
)
from orchestrator.tracking.views import COUNTED
from orchestrator.tracking.writes import (
    CloseRun,
    CountOnce,
    LogDataset,
    LogPoints,
    OpenRun,
    ReopenRun,
    Write,
)

STATUS = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
"""growstage's end of a run, lane or stage -> MLflow's."""


@dataclass(slots=True)
class Dirty:
    """Lanes and stages whose notes, tables and figures no longer show what is known."""

    run: bool = False
    lanes: set[str] = field(default_factory=set)
    stages: set[tuple[str, int]] = field(default_factory=set)
    """Stages whose list of edits changed."""
    ended: bool = False
    """Whether the run stopped: what is shown now stays."""


class Projection:
    """Takes records in and says what each one adds to the tracker's view of the run."""

    def __init__(self) -> None:
        self.history = RunHistory()
        self.dirty = Dirty()
        self.labels = Labels(self.history)
        self._matrices = Matrices(self.history, self.labels.key)
        self._means: dict[str, float] = {}
        """Of methods, as the run shows them."""
        self._begun: RunStarted | None = None
        """The run's beginning, shown once something follows: a run may be begun anew."""

    def add(self, record: Record) -> list[Write]:
        """The writes that follow from one more record."""
        told = self.history.add(record)
        if isinstance(record.event, RunStarted):
            self._begun = record.event
            return []
        begun, self._begun = self._begun, None
        first = [] if begun is None else self._run_started(begun)
        return [*first, *(self._told(record.event) if told else ())]

    def show_again(self, doubtful: Container[str]) -> None:
        """The run has ended: mark as out of date the pages (``page:KEY``) that may be older."""
        self.dirty.ended = True
        self.dirty.run |= f"page:{self.labels.key()}" in doubtful
        for lane in self.history.lanes.values():
            if f"page:{self.labels.key(lane)}" in doubtful:
                self.dirty.lanes.add(lane.name)
            self.dirty.stages |= {
                (lane.name, index)
                for index in lane.stages
                if f"page:{self.labels.key(lane, index)}" in doubtful
            }

    def _told(self, event: Event) -> list[Write]:
        """The writes of what follows the run's beginning."""
        match event:
            case RunStarted() | ClusterChanged():
                return []
            case RunResumed():
                return self._resumed(event)
            case RunInterrupted():
                return self._run_ended(event.at)
            case RunFinished():
                return [*self._means_of_methods(event.at), *self._run_ended(event.at)]
        lane = self.history.lanes[event.lane]
        match event:
            case LaneOpened():
                return self._lane_opened(lane, event)
            case StageStarted():
                return self._stage_started(lane, event)
            case IntervalDone():
                return self._interval_done(lane, event)
            case EditApplied():
                return self._edit_applied(lane, event)
            case CheckpointSaved():
                return self._checkpoint_saved(lane, event)
            case EvaluationDone():
                return self._evaluation_done(lane, event)
            case LaneClosed():
                return self._lane_closed(lane, event)
            case WorkFailed():
                if not lane.opened:
                    return []  # a lane that did not even open has no run yet
                self.dirty.lanes.add(lane.name)
                points = (point("failures", lane.failures, lane.failures, event.at),)
                return [LogPoints(key=self.labels.key(lane), points=points)]
        raise AssertionError(f"unknown event {event!r}")

    # ------------------------------------------------------------ runs

    def _run_started(self, event: RunStarted) -> list[Write]:
        self.dirty.run = True
        lanes = [lane["name"] for lane in event.config["lanes"]]
        params = {
            "name": event.name,
            "lanes": ", ".join(lanes),
        }
        if event.trial is not None:
            return [self._trial_run(event, event.trial)]
        run = OpenRun(
            key=self.labels.key(),
            parent=None,
            name=event.run_id,
            at=milliseconds(event.at),
            tags=self.labels.run_tags("run"),
            params=params,
        )
        return [run]

    def _trial_run(self, event: RunStarted, trial: TrialRef) -> OpenRun:
        """The run of a trial, under its search: what was chosen, and the lane's whole config."""
        (lane,) = self.history.lanes.values()
        config = {name: value for name, value in lane.config.items() if name != "name"}
        chosen = {name: str(value) for name, value in trial.settings.items()}
        return OpenRun(
            key=self.labels.key(),
            parent=trial.sweep,
            name=trial.name,
            at=milliseconds(event.at),
            tags=self.labels.lane_tags(lane, "trial"),
            params={**flatten(config), **chosen, "lane": lane.name, "variant": lane.label},
        )

    def _lane_opened(self, lane: LaneHistory, event: LaneOpened) -> list[Write]:
        if self.labels.trial is not None:
            return [ReopenRun(key=self.labels.key())]
        key, stream = self.labels.key(lane), self.labels.run_tags("lane")["stream"]
        config = {name: value for name, value in lane.config.items() if name != "name"}
        run = OpenRun(
            key=key,
            parent=self.labels.key(),
            name=f"{lane.label} · s{lane.seed} · {stream}",
            at=milliseconds(event.at),
            tags={**self.labels.lane_tags(lane, "lane"), COUNTED: "yes"},
            params={**flatten(config), "lane": lane.name, "variant": lane.label},
        )
        reopened: list[Write] = [ReopenRun(key=key)] if event.attempt > 1 else []
        taken = (
            [*self._matrices.cells(lane), *self._matrices.sums(lane, event.at)] if lane.rows else []
        )
        return [run, *reopened, *taken]

    def _lane_closed(self, lane: LaneHistory, event: LaneClosed) -> list[Write]:
        self.dirty.run = True
        key = self.labels.key(lane)
        closed = CloseRun(key=key, status="FINISHED", at=milliseconds(event.at))
        if self.labels.trial is not None:
            return [closed]
        counted = CountOnce(
            key=key, variant=lane.label, settings=self.labels.settings(lane), seed=str(lane.seed)
        )
        return [closed, counted]

    def _stage_started(self, lane: LaneHistory, event: StageStarted) -> list[Write]:
        spec, data = event.stage, event.report
        key = self.labels.key(lane, spec.index)
        tags = {
            **self.labels.lane_tags(lane, "stage"),
            "stage.index": f"{spec.index:02d}",
            "stage.id": spec.id,
            "task": spec.task.name,
            "domain": spec.task.domain,
            "data.digest": data.data_digest,
        }
        params = {
            "stage": f"{spec.index:02d}",
            "task": spec.task.name,
            "domain": spec.task.domain,
            "method": lane.method,
            "variant": lane.label,
            "seed": str(lane.seed),
            "stage_seed": str(spec.seed),
            "parent_stage": spec.parent or "none",
            "intervals": str(spec.intervals),
            **flatten({"data": data.fields, "task": spec.task.settings}),
        }
        self.dirty.stages.add((lane.name, spec.index))
        run = OpenRun(
            key=key,
            parent=self.labels.key(lane),
            name=f"{spec.index:02d} {spec.task.name} · {self.labels.short(lane)}",
            at=milliseconds(event.at),
            tags=tags,
            params=params,
        )
        dataset = LogDataset(
            key=key,
            name=spec.task.name,
            digest=data.data_digest,
            source=data.source,
            context="training",
        )
        shape = of_shape(lane.shape, 0, event.at)
        return [run, dataset, LogPoints(key=key, points=shape), *self._matrices.cells(lane)]

    def _resumed(self, event: RunResumed) -> list[Write]:
        """What goes on, with the settings that are other from here on."""
        changed = {f"changed.{path}": str(value) for path, value in event.settings.items()}
        found: list[Write] = [ReopenRun(key=self.labels.key(), tags=changed)]
        for lane, key, end in self._ends():
            if end is None:
                may = {f"changed.{path}" for path in lane.plan.spec.changeable}
                tags = {name: value for name, value in changed.items() if name in may}
                found.append(ReopenRun(key=key, tags=tags))
        return found

    def _run_ended(self, at: float) -> list[Write]:
        self.dirty.run = self.dirty.ended = True
        self.dirty.lanes |= {lane.name for lane in self.history.lanes.values() if lane.opened}
        writes: list[Write] = [
            CloseRun(key=key, status=STATUS[end], at=milliseconds(at))
            for _, key, end in self._ends()
            if end is not None and end != "done"
        ]
        writes.append(
            CloseRun(key=self.labels.key(), status=STATUS[self.history.status], at=milliseconds(at))
        )
        return writes

    def _means_of_methods(self, at: float) -> list[Write]:
        """Once for each value, however often the run ends: a run with failures may be resumed."""
        points = method_means(self.history, at) if self.labels.trial is None else ()
        new = tuple(one for one in points if self._means.get(one.name) != one.value)
        self._means |= {one.name: one.value for one in new}
        return [LogPoints(key=self.labels.key(), points=new)] if new else []

    def _ends(self) -> list[tuple[LaneHistory, str, str | None]]:
        """How each opened lane and its open stages ended; None while they go on."""
        ends: list[tuple[LaneHistory, str, str | None]] = []
        for lane in self.history.lanes.values():
            if not lane.opened:
                continue
            for index in sorted(lane.stages):
                status = self.history.stage_status(lane, index)
                if status == "skipped":
                    ends.append((lane, self.labels.key(lane, index), "failed"))
                elif status != "done":
                    ends.append((lane, self.labels.key(lane, index), _end(status)))
            ends.append((lane, self.labels.key(lane), _end(self.history.lane_status(lane))))
        return ends

    # ------------------------------------------------------------ inside a stage

    def _interval_done(self, lane: LaneHistory, event: IntervalDone) -> list[Write]:
        points = of_interval(event.report, event.at)
        return [LogPoints(key=self.labels.key(lane, max(lane.stages)), points=points)]

    def _edit_applied(self, lane: LaneHistory, event: EditApplied) -> list[Write]:
        index = max(lane.stages)
        self.dirty.lanes.add(lane.name)
        self.dirty.stages.add((lane.name, index))
        points = of_shape(event.report.after, lane.stages[index].steps, event.at)
        return [LogPoints(key=self.labels.key(lane, index), points=points)]

    def _checkpoint_saved(self, lane: LaneHistory, event: CheckpointSaved) -> list[Write]:
        if not event.final:
            return []
        key = self.labels.key(lane, event.index) if event.index >= 0 else self.labels.key(lane)
        points = of_shape(lane.shape, event.index + 1, event.at)
        writes: list[Write] = [
            models.logged(self.labels, lane, event.index, event.checkpoint, event.adopted_from),
            LogPoints(key=self.labels.key(lane), points=points),
        ]
        if event.index >= 0:
            writes.append(CloseRun(key=key, status="FINISHED", at=milliseconds(event.at)))
        if event.adopted_from is not None and event.index >= 0:
            self.dirty.stages.add((lane.name, event.index))
        return writes

    # ------------------------------------------------------------ the matrix

    def _evaluation_done(self, lane: LaneHistory, event: EvaluationDone) -> list[Write]:
        self.dirty.run = True
        alike = scored_alike(lane.name, event.index, self.history.state.lanes)
        writes: list[Write] = []
        if event.index >= 0 and lane.stages[event.index].trained_by is None:
            key = self.labels.key(lane, event.index)
            writes.append(LogPoints(key=key, points=of_row(lane, event)))
            writes.append(LogPoints(key=key, points=of_scores(lane, event), model=key))
        for shown in (self.history.lanes[one.name] for one in alike):
            if shown.opened:
                self.dirty.lanes.add(shown.name)
                writes += self._matrices.late_drifts(shown, event)
                writes += self._matrices.cells(shown)
                writes += self._matrices.sums(shown, event.at, late=event.index < 0)
        compared = self._matrices.comparisons(event.at)
        self.dirty.lanes |= compared.keys()
        return [*writes, *compared.values()]


def _end(status: str) -> str | None:
    return status if status in STATUS else None
