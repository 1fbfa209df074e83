"""What a tracker must show for each journal record: records in, writes (plain values) out.

Pure: knows names, tags, params, metric keys and step axes, but no MLflow and no run ids. Writes
name runs and models by keys that are the same on every replay.
"""

from __future__ import annotations

import re
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
from orchestrator.report.colours import lane_colours, trial_colour
from orchestrator.report.history import RunHistory
from orchestrator.report.lane_history import LaneHistory
from orchestrator.report.summary import settings_digest
from orchestrator.tracking.matrices import Matrices
from orchestrator.tracking.naming import flatten, milliseconds, point
from orchestrator.tracking.points import (
    largest,
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
    LogModel,
    LogPoints,
    OpenRun,
    ReopenRun,
    Write,
)
from workers.contract import CheckpointRef

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
        self._matrices = Matrices(self.history, self.key)
        self._colours: dict[str, str] = {}
        """Of lanes, which a run has from its beginning."""
        self._digests: dict[str, str] = {}
        """Lane -> digest of what it is; every stage's run has it."""
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
        self.dirty.run |= f"page:{self.key()}" in doubtful
        for lane in self.history.lanes.values():
            if f"page:{self.key(lane)}" in doubtful:
                self.dirty.lanes.add(lane.name)
            self.dirty.stages |= {
                (lane.name, index)
                for index in lane.stages
                if f"page:{self.key(lane, index)}" in doubtful
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
                return [LogPoints(key=self.key(lane), points=points)]
        raise AssertionError(f"unknown event {event!r}")

    def key(self, lane: LaneHistory | None = None, index: int | None = None) -> str:
        """The run's, a lane's or a stage's key; a model has the key of the run that made it."""
        assert self.history.started is not None
        parts = [self.history.started.run_id]
        if lane is not None and self.trial is None:
            parts.append(lane.name)
        if index is not None:
            parts.append(f"{index:03d}")
        return "/".join(parts)

    @property
    def trial(self) -> TrialRef | None:
        """The trial this run is: it and its only lane are then shown as one."""
        return self.history.started.trial if self.history.started else None

    # ------------------------------------------------------------ runs

    def _tags(self, level: str) -> dict[str, str]:
        started = self.history.started
        assert started is not None
        trial: dict[str, str] = {}
        if started.trial is not None:
            trial = {
                "sweep": started.trial.sweep,
                "trial": started.trial.trial,
                "trial.attempt": str(started.trial.attempt),
                "trial.parent": started.trial.parent or "none",
            }
        return {
            **trial,
            "level": level,
            "stream": started.name,
            "git": started.code_version,
            "mlflow.source.git.commit": started.code_version,
            "modules": " ".join(f"{name}={sha}" for name, sha in started.modules.items()) or "none",
            "mlflow.source.name": "growstage",
            "mlflow.source.type": "PROJECT",
            "growstage.run": started.run_id,
            "config.digest": started.config_digest,
        }

    def _lane_tags(self, lane: LaneHistory, level: str) -> dict[str, str]:
        trial = self.trial
        colour = (
            self._colours[lane.name] if trial is None else trial_colour(trial.trial, trial.attempt)
        )
        settings = self._settings(lane)
        return {
            **self._tags(level),
            "lane": lane.name,
            "method": lane.method,
            "variant": lane.label,
            "settings": settings,
            "group": f"{lane.label} {settings[:8]}",
            "seed": str(lane.seed),
            "ops.backend": lane.backend,
            "mlflow.runColor": colour,
        }

    def _settings(self, lane: LaneHistory) -> str:
        """What seeds are grouped by, beside the lane's name without its seed."""
        if lane.name not in self._digests:
            assert self.history.started is not None
            self._digests[lane.name] = settings_digest(lane, self.history.started.run_id)
        return self._digests[lane.name]

    def _run_started(self, event: RunStarted) -> list[Write]:
        self.dirty.run = True
        self._colours = lane_colours([(one.label, one.name) for one in self.history.lanes.values()])
        lanes = [lane["name"] for lane in event.config["lanes"]]
        params = {
            "name": event.name,
            "lanes": ", ".join(lanes),
        }
        if event.trial is not None:
            return [self._trial_run(event, event.trial)]
        run = OpenRun(
            key=self.key(),
            parent=None,
            name=event.run_id,
            at=milliseconds(event.at),
            tags=self._tags("run"),
            params=params,
        )
        return [run]

    def _trial_run(self, event: RunStarted, trial: TrialRef) -> OpenRun:
        """The run of a trial, under its search: what was chosen, and the lane's whole config."""
        (lane,) = self.history.lanes.values()
        config = {name: value for name, value in lane.config.items() if name != "name"}
        chosen = {name: str(value) for name, value in trial.settings.items()}
        return OpenRun(
            key=self.key(),
            parent=trial.sweep,
            name=trial.name,
            at=milliseconds(event.at),
            tags=self._lane_tags(lane, "trial"),
            params={**flatten(config), **chosen, "lane": lane.name, "variant": lane.label},
        )

    def _lane_opened(self, lane: LaneHistory, event: LaneOpened) -> list[Write]:
        if self.trial is not None:
            return [ReopenRun(key=self.key())]
        key, stream = self.key(lane), self._tags("lane")["stream"]
        config = {name: value for name, value in lane.config.items() if name != "name"}
        run = OpenRun(
            key=key,
            parent=self.key(),
            name=f"{lane.label} · s{lane.seed} · {stream}",
            at=milliseconds(event.at),
            tags={**self._lane_tags(lane, "lane"), COUNTED: "yes"},
            params={**flatten(config), "lane": lane.name, "variant": lane.label},
        )
        reopened: list[Write] = [ReopenRun(key=key)] if event.attempt > 1 else []
        taken = (
            [*self._matrices.cells(lane), *self._matrices.sums(lane, event.at)] if lane.rows else []
        )
        return [run, *reopened, *taken]

    def _lane_closed(self, lane: LaneHistory, event: LaneClosed) -> list[Write]:
        self.dirty.run = True
        key = self.key(lane)
        closed = CloseRun(key=key, status="FINISHED", at=milliseconds(event.at))
        if self.trial is not None:
            return [closed]
        counted = CountOnce(
            key=key, variant=lane.label, settings=self._settings(lane), seed=str(lane.seed)
        )
        return [closed, counted]

    def _stage_started(self, lane: LaneHistory, event: StageStarted) -> list[Write]:
        spec, data = event.stage, event.report
        key = self.key(lane, spec.index)
        tags = {
            **self._lane_tags(lane, "stage"),
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
            parent=self.key(lane),
            name=f"{spec.index:02d} {spec.task.name} · {self._short(lane)}",
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

    def _short(self, lane: LaneHistory) -> str:
        """What tells a stage's run from the same stage of other lanes."""
        return self.trial.name if self.trial is not None else f"{lane.label}·s{lane.seed}"

    def _resumed(self, event: RunResumed) -> list[Write]:
        """What goes on, with the settings that are other from here on."""
        changed = {f"changed.{path}": str(value) for path, value in event.settings.items()}
        found: list[Write] = [ReopenRun(key=self.key(), tags=changed)]
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
            CloseRun(key=self.key(), status=STATUS[self.history.status], at=milliseconds(at))
        )
        return writes

    def _means_of_methods(self, at: float) -> list[Write]:
        """Once for each value, however often the run ends: a run with failures may be resumed."""
        points = method_means(self.history, at) if self.trial is None else ()
        new = tuple(one for one in points if self._means.get(one.name) != one.value)
        self._means |= {one.name: one.value for one in new}
        return [LogPoints(key=self.key(), points=new)] if new else []

    def _ends(self) -> list[tuple[LaneHistory, str, str | None]]:
        """How each opened lane and its open stages ended; None while they go on."""
        ends: list[tuple[LaneHistory, str, str | None]] = []
        for lane in self.history.lanes.values():
            if not lane.opened:
                continue
            for index in sorted(lane.stages):
                status = self.history.stage_status(lane, index)
                if status == "skipped":
                    ends.append((lane, self.key(lane, index), "failed"))
                elif status != "done":
                    ends.append((lane, self.key(lane, index), _end(status)))
            ends.append((lane, self.key(lane), _end(self.history.lane_status(lane))))
        return ends

    # ------------------------------------------------------------ inside a stage

    def _interval_done(self, lane: LaneHistory, event: IntervalDone) -> list[Write]:
        points = of_interval(event.report, event.at)
        return [LogPoints(key=self.key(lane, max(lane.stages)), points=points)]

    def _edit_applied(self, lane: LaneHistory, event: EditApplied) -> list[Write]:
        index = max(lane.stages)
        self.dirty.lanes.add(lane.name)
        self.dirty.stages.add((lane.name, index))
        points = of_shape(event.report.after, lane.stages[index].steps, event.at)
        return [LogPoints(key=self.key(lane, index), points=points)]

    def _checkpoint_saved(self, lane: LaneHistory, event: CheckpointSaved) -> list[Write]:
        if not event.final:
            return []
        key = self.key(lane, event.index) if event.index >= 0 else self.key(lane)
        points = of_shape(lane.shape, event.index + 1, event.at)
        writes: list[Write] = [
            self._model(lane, event.index, event.checkpoint, event.adopted_from),
            LogPoints(key=self.key(lane), points=points),
        ]
        if event.index >= 0:
            writes.append(CloseRun(key=key, status="FINISHED", at=milliseconds(event.at)))
        if event.adopted_from is not None and event.index >= 0:
            self.dirty.stages.add((lane.name, event.index))
        return writes

    def _model(
        self, lane: LaneHistory, index: int, ref: CheckpointRef, adopted_from: str | None
    ) -> LogModel:
        """The model a final checkpoint holds, with all that traces it."""
        stage = lane.stages[index].spec if index >= 0 else None
        start = lane.plan.spec.start
        first = "untrained" if start is None else "start"
        first = first if lane.plan.spec.merged is None else "merged"
        tags = self._lane_tags(lane, "model")
        params = {
            "stage": f"{index:02d}" if stage else first,
            "task": stage.task.name if stage else "none",
            "stage_id": stage.id if stage else "none",
            "method": lane.method,
            "variant": lane.label,
            "seed": str(lane.seed),
            "sha256": ref.digest,
            "uri": ref.uri,
            "bytes": str(ref.bytes),
            "config_digest": tags["config.digest"],
            "code_version": tags["git"],
            "ops_backend": lane.backend,
            "adopted_from": adopted_from or "none",
            "started_from": "none" if start is None else start.checkpoint.digest,
            "merged_by": lane.plan.spec.merged.way["kind"] if lane.plan.spec.merged else "none",
            "experts": str(largest(lane.shape)),
            "parameters": str(lane.shape.parameters) if lane.shape else "0",
        }
        parents, starts = self._before(lane, index)
        suffix = f"stage{index:02d}" if stage else first
        return LogModel(
            key=self.key(lane, index) if stage else self.key(lane),
            run=self.key(lane, index) if stage else self.key(lane),
            parents=parents,
            name=re.sub(r"[^\w-]", "_", f"{self._model_prefix(lane)}-{suffix}"),
            step=index + 1,
            params=params,
            tags={name: value for name, value in tags.items() if not name.startswith("mlflow.")},
            starts=starts,
        )

    def _before(self, lane: LaneHistory, index: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What the model after a stage (-1 = the lane's first one) goes on from: keys of models
        here, and digests of other runs' models."""
        spec = lane.plan.spec
        if index >= 0:
            done = [n for n, stage in lane.stages.items() if n < index and stage.checkpoint]
            done = [] if lane.plan.course == "alone" else done
            return (self._stage_key(lane, max(done)) if done else self.key(lane),), ()
        if spec.start is not None:
            return (), (spec.start.checkpoint.digest,)
        made_of = () if spec.merged is None else spec.merged.parents
        here = [
            self._stage_key(self.history.lanes[parent.lane], parent.index)
            for parent in made_of
            if parent.lane is not None
        ]
        there = [parent.checkpoint.digest for parent in made_of if parent.checkpoint is not None]
        return tuple(here), tuple(there)

    def _stage_key(self, lane: LaneHistory, index: int) -> str:
        """Key of a stage and its model: those of the lane that trained it."""
        owner = lane.stages[index].trained_by
        return self.key(lane if owner is None else self.history.lanes[owner], index)

    def _model_prefix(self, lane: LaneHistory) -> str:
        trial = self.trial
        return lane.name if trial is None else f"trial{trial.trial}-{trial.attempt}"

    # ------------------------------------------------------------ the matrix

    def _evaluation_done(self, lane: LaneHistory, event: EvaluationDone) -> list[Write]:
        self.dirty.run = True
        alike = scored_alike(lane.name, event.index, self.history.state.lanes)
        writes: list[Write] = []
        if event.index >= 0 and lane.stages[event.index].trained_by is None:
            key = self.key(lane, event.index)
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
