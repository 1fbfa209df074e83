"""Test doubles: an executor that scripts the cluster, and tiny configs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.config.file import check
from orchestrator.config.run import RunConfig
from orchestrator.core.actions import (
    Action,
    ApplyEdit,
    CloseLane,
    DropLane,
    Evaluate,
    OpenLane,
    RunInterval,
    SaveCheckpoint,
    StartStage,
)
from orchestrator.core.events import (
    CheckpointSaved,
    EditApplied,
    EvaluationDone,
    Event,
    IntervalDone,
    LaneClosed,
    LaneOpened,
    StageStarted,
    WorkFailed,
)
from orchestrator.core.plans import FailureKind
from workers.contract import (
    CheckpointRef,
    EditReport,
    EvaluationReport,
    IntervalReport,
    LayerShape,
    ModelShape,
    OpenReport,
    StartReport,
)
from workers.edits import Grow

TINY = {
    "name": "tiny",
    "stream": {"kind": "split", "dataset": "digits"},
    "training": {"intervals": 2, "epochs": 1},
    "model": {"head": {"kind": "moe", "hidden": [16]}},
    "lanes": [{"method": "finetune"}],
}


def tiny(**changes: Any) -> RunConfig:
    """The tiny digits config with top-level keys replaced."""
    return check({**TINY, **changes}, "tiny")


def shape(experts: int = 1) -> ModelShape:
    layer = LayerShape(experts=experts, widths=(4,) * experts, parameters=10 * experts)
    return ModelShape(layers={"layer": layer}, parameters=10 * experts, active=10 * experts)


class FakeExecutor:
    """Answers each action with the event a healthy cluster would send, first come first served.

    ``fail`` may name actions that fail instead: it gets (action, times seen) and returns a
    failure kind or None. ``room``: how many lanes' workers it has room for at once; to open more
    would be to wait for ever.
    """

    def __init__(
        self,
        fail: Callable[[Action, int], FailureKind | None] = lambda action, seen: None,
        room: int = 2,
    ) -> None:
        self.room = room
        self.held: set[str] = set()
        """Lanes whose worker has not been let go."""
        self.queue: deque[Event] = deque()
        self.performed: list[Action] = []
        self.fail = fail
        self.seen: dict[str, int] = {}
        self.stage_of: dict[str, str] = {}
        self.experts: dict[str, int] = {}
        """Lane or name of a checkpoint -> experts of its model."""
        self.at = 0.0

    def perform(self, action: Action) -> None:
        self.performed.append(action)
        self.at += 1.0
        key = _key(action)
        self.seen[key] = self.seen.get(key, 0) + 1
        kind = self.fail(action, self.seen[key])
        self._hold(action, kind is not None)
        if isinstance(action, DropLane):
            return
        self.queue.append(self._failure(action, kind) if kind else self._answer(action))

    def wait(self, timeout: float) -> list[Event]:
        return [self.queue.popleft()] if self.queue else []

    def close(self) -> None:
        self.queue.clear()

    def _answer(self, action: Action) -> Event:
        at = self.at
        match action:
            case OpenLane():
                seq = action.checkpoint.seq if action.checkpoint else 0
                if action.checkpoint is not None and action.checkpoint.stage is not None:
                    self.stage_of[action.spec.lane] = action.checkpoint.stage
                name = action.checkpoint.uri if action.checkpoint else ""
                experts = self.experts.get(name, 1)
                self.experts[action.spec.lane] = experts
                report = OpenReport(
                    shape=shape(experts), seq=seq, backend="reference", host="h", pid=1
                )
                return LaneOpened(
                    at=at, lane=action.spec.lane, attempt=action.attempt, report=report
                )
            case CloseLane():
                return LaneClosed(at=at, lane=action.lane, attempt=action.attempt)
            case Evaluate():
                scores = [1.0 if i <= action.index else 0.1 for i in range(len(action.tasks))]
                evaluated = EvaluationReport(scores=scores, seconds=0.1)
                return EvaluationDone(
                    at=at, lane=action.spec.lane, index=action.index, report=evaluated
                )
        return self._command(action, at)

    def _command(self, action: Any, at: float) -> Event:
        common = {"at": at, "lane": action.lane, "attempt": action.attempt, "seq": action.seq}
        match action:
            case StartStage():
                self.stage_of[action.lane] = action.stage.id
                started = StartReport(source="fake", data_digest="d", samples=10)
                return StageStarted(**common, stage=action.stage, report=started)
            case RunInterval():
                report = IntervalReport(
                    stage=self.stage_of[action.lane],
                    n=action.n,
                    steps=10 * action.n,
                    metrics={"loss": 1.0},
                    **{"revision": action.revision, **self.counted(action)},
                    seconds=0.1,
                )
                return IntervalDone(**common, report=report)
            case ApplyEdit():
                before = self.experts.get(action.lane, 1)
                after = getattr(action.edit, "experts", before)
                self.experts[action.lane] = after
                edited = EditReport(
                    edit=action.edit.id,
                    fingerprint=f"fp-{action.edit.id}",
                    before=shape(before),
                    after=shape(after),
                    parents={"layer": [0]} if isinstance(action.edit, Grow) else {},
                    probe_change=0.1,
                    seconds=0.01,
                )
                return EditApplied(**common, edit=action.edit, report=edited)
            case SaveCheckpoint():
                self.experts[action.name] = self.experts.get(action.lane, 1)
                stage = self.stage_of.get(action.lane) if action.index >= 0 else None
                ref = CheckpointRef(
                    uri=action.name, digest=f"d-{action.seq}", seq=action.seq, stage=stage, bytes=1
                )
                return CheckpointSaved(
                    **common, index=action.index, final=action.final, checkpoint=ref
                )
        raise AssertionError(action)

    def counted(self, action: RunInterval) -> dict[str, Any]:
        """Usage counts of an interval; here none, a test may give some."""
        return {}

    def _hold(self, action: Any, fails: bool) -> None:
        """Keep count of the workers, as a cluster does."""
        if isinstance(action, Evaluate):
            return
        if isinstance(action, DropLane):
            return self.held.discard(action.lane)
        if isinstance(action, OpenLane):
            self.held.add(action.spec.lane)
            assert len(self.held) <= self.room, f"no room for {action.spec.lane}: {self.held}"
        lane = action.spec.lane if isinstance(action, OpenLane) else action.lane
        assert lane in self.held, f"{lane} has no worker for {action}"
        if fails or isinstance(action, CloseLane):
            self.held.remove(lane)

    def _failure(self, action: Any, kind: FailureKind) -> WorkFailed:
        lane = getattr(action, "lane", None) or action.spec.lane
        return WorkFailed(
            at=self.at,
            lane=lane,
            attempt=getattr(action, "attempt", 0),
            kind=kind,
            index=getattr(action, "index", -1),
            message="scripted",
        )


def _key(action: Any) -> str:
    lane = getattr(action, "lane", None) or action.spec.lane
    inner: Mapping[type, Callable[[Any], Any]] = {
        ApplyEdit: lambda a: a.edit.id,
        RunInterval: lambda a: a.n,
        StartStage: lambda a: a.stage.id,
        Evaluate: lambda a: a.index,
        SaveCheckpoint: lambda a: a.name,
    }
    detail = inner.get(type(action), lambda a: "")(action)
    return f"{type(action).__name__}/{lane}/{detail}"
