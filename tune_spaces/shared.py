"""An executor that does nothing twice in a sweep: what another trial did comes from the store.

A worker is a function of its checkpoint's contents, the settings it builds from, and the commands
since; so is the key of an answer. Trials whose policies have not yet decided differently thus
share every stage, whatever distinguishes them later. A command that no trial has executed is
executed by a worker that starts from the last checkpoint and first catches up.
"""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import asdict, replace
from typing import Any, Protocol

from orchestrator.core.actions import (
    Action,
    ApplyEdit,
    CloseLane,
    Command,
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
from orchestrator.core.records import RECORD, Record, line
from orchestrator.driver import Executor
from tune_spaces.store import Reply
from workers.contract import CheckpointRef, Json, LaneSpec, digest

OWN = ("id", "stage", "cause")
"""Fields of an edit that only its own trial's lineage tells apart."""
POLL_S = 0.2
"""Between two questions after an answer another trial is about to give."""


class Store(Protocol):
    """What a trial asks; the sweep's StageStore behind an actor, or itself in tests."""

    def ask(self, key: str, run: str) -> Reply: ...
    def peek(self, key: str) -> Reply | None: ...
    def tell(self, key: str, run: str, event: Json) -> None: ...
    def renew(self, run: str) -> None: ...
    def drop(self, run: str) -> None: ...
    def forget(self, uri: str) -> None: ...


class SharingExecutor:
    """Serves one lane: answers from the store, and from ``inner``'s worker what is not there."""

    def __init__(self, inner: Executor, store: Store, run: str) -> None:
        """``run``: name under which this trial claims and gives answers."""
        self._inner, self._store, self._run = inner, store, run
        self._ready: deque[Event] = deque()
        self._keys: dict[Any, str] = {}
        """Seq of a command (or ("open",), ("row", index)) under way -> key of its answer."""
        self._silent: set[Any] = set()
        """Commands executed only to catch up: their answers are known."""
        self._scored: dict[int, CheckpointRef] = {}
        """Models that are being scored, by stage."""
        self._lane: OpenLane | None = None
        self._base: CheckpointRef | None = None
        """Last checkpoint, and below it what was done since."""
        self._history: tuple[Json, ...] = ()
        self._behind: list[Command] = []
        """Commands since that checkpoint which no worker of this trial has executed."""
        self._stage: str | None = None
        self._fingerprints: dict[int, str] = {}
        """Seq of an edit answered from the store -> the fingerprint it must give."""
        self._waiting: tuple[Command, str] | None = None
        self._worker = False
        """Whether a worker was placed since the lane was last opened."""
        self._level = False
        """Whether that worker stands at the last checkpoint and the commands since, but those
        it is behind."""
        self._asked = 0.0

    # ------------------------------------------------------------ the executor's three

    def perform(self, action: Action) -> None:
        """Start the action; its event comes out of ``wait``."""
        match action:
            case OpenLane():
                self._open(action)
            case CloseLane() if not self._worker:
                self._ready.append(
                    LaneClosed(at=time.time(), lane=action.lane, attempt=action.attempt)
                )
            case DropLane():
                self._waiting = None
                self._inner.perform(action)
            case Evaluate():
                self._evaluate(action)
            case StartStage() | RunInterval() | ApplyEdit() | SaveCheckpoint():
                self._stage = action.stage.id if isinstance(action, StartStage) else self._stage
                self._history = (*self._history, _essence(action))
                self._ask(action, self._key(*self._history))
            case _:
                self._inner.perform(action)

    def wait(self, timeout: float) -> list[Event]:
        """Events of what came back, from the store or from a worker."""
        if self._ready:
            return [self._taken_in(self._ready.popleft())]
        if self._waiting is not None:
            time.sleep(min(timeout, POLL_S))
            self._ask(*self._waiting)
            timeout = 0.0
        if time.monotonic() - self._asked > 1.0:
            self._asked = time.monotonic()
            self._store.renew(self._run)
        events = [event for event in self._inner.wait(timeout) if not self._muted(event)]
        return [self._taken_in(self._told(event)) for event in events]

    def close(self) -> None:
        """Let the worker and all claims go."""
        self._store.drop(self._run)
        self._inner.close()

    # ------------------------------------------------------------ from the store

    def _open(self, action: OpenLane) -> None:
        """Start anew from the action's checkpoint; a worker is placed when one is needed."""
        self._lane = action
        self._base = action.checkpoint
        self._history, self._stage = (), None
        self._waiting = None
        self._worker = self._level = False
        self._behind.clear()
        self._keys = {name: key for name, key in self._keys.items() if _is_row(name)}
        self._silent.clear()
        key = self._key("open")
        reply = self._store.peek(key)
        if reply is not None:
            self._ready.append(self._restamped(reply, action))
            return
        self._keys[("open",)] = key
        self._place(action)

    def _ask(self, command: Command, key: str) -> None:
        reply = self._store.ask(key, self._run)
        self._waiting = (command, key) if reply.verdict == "wait" else None
        if reply.verdict == "known":
            self._behind.append(command)
            self._ready.append(self._restamped(reply, command))
        elif reply.verdict == "yours":
            self._keys[command.seq] = key
            self._catch_up()
            self._inner.perform(command)

    def _evaluate(self, action: Evaluate) -> None:
        key = digest(["row", action.spec.built_from, action.spec.seed, action.checkpoint.digest])
        reply = self._store.peek(key)
        if reply is None:
            self._keys[("row", action.index)] = key
            self._scored[action.index] = action.checkpoint
            self._inner.perform(action)
        else:
            self._ready.append(self._restamped(reply, action))

    @property
    def _opened(self) -> OpenLane:
        assert self._lane is not None, "a lane's first action opens it"
        return self._lane

    def _key(self, *commands: Json) -> str:
        spec: LaneSpec = self._opened.spec
        base = None if self._base is None else self._base.digest
        told = [spec.trainer, spec.built_from, spec.seed, spec.by_domain]
        return digest([*told, list(spec.start_diagnostics), base, *commands])

    # ------------------------------------------------------------ from a worker

    def _place(self, action: OpenLane) -> None:
        self._inner.perform(action)
        self._worker = self._level = True

    def _catch_up(self) -> None:
        """Bring a worker to where the next command begins: open, then what it has missed."""
        if not self._level:
            self._silent.add(("open",))
            self._place(replace(self._opened, checkpoint=self._base))
        for command in self._behind:
            self._silent.add(command.seq)
            self._inner.perform(command)
        self._behind.clear()

    def _muted(self, event: Event) -> bool:
        """Whether the event only answers what was done to catch up."""
        name = _name(event)
        if name not in self._silent:
            return False
        self._silent.discard(name)
        if isinstance(event, EditApplied):  # one that contradicts goes on to the controller
            return event.report.fingerprint == self._fingerprints.get(event.seq)
        return True

    def _told(self, event: Event) -> Event:
        """Give a real answer to the store, which forgets where a checkpoint was that is lost: the
        stage is trained again then, and not answered from there for ever."""
        if isinstance(event, WorkFailed):
            lost = self._scored[event.index] if event.kind == "model_lost" else self._base
            if event.kind in ("model_lost", "checkpoint_lost") and lost is not None:
                self._store.forget(lost.uri)
            return event
        key = self._keys.pop(_name(event), None)
        if key is not None:
            told = json.loads(line(Record(event=event)))["event"]
            self._store.tell(key, self._run, told)
        return event

    def _taken_in(self, event: Event) -> Event:
        """A checkpoint is what later commands start from."""
        if isinstance(event, CheckpointSaved):
            self._base, self._history = event.checkpoint, ()
            self._level = self._level and not self._behind
            self._behind.clear()
        return event

    def _restamped(self, reply: Reply, action: Any) -> Event:
        """A kept answer as the answer to this trial's own action."""
        event: Any = RECORD.validate_python({"event": reply.event}).event
        lane = action.spec.lane if isinstance(action, OpenLane | Evaluate) else action.lane
        own: dict[str, Any] = {"at": time.time(), "lane": lane}
        if not isinstance(action, Evaluate):
            own["attempt"] = action.attempt
        match event:
            case LaneOpened():
                own["report"] = replace(event.report, seq=_seq(self._base), host="", pid=0)
            case StageStarted():
                own |= {"seq": action.seq, "stage": action.stage}
            case IntervalDone():
                assert self._stage is not None
                own |= {"seq": action.seq, "report": replace(event.report, stage=self._stage)}
            case EditApplied():
                self._fingerprints[action.seq] = event.report.fingerprint
                own |= {"seq": action.seq, "edit": action.edit}
                own["report"] = replace(event.report, edit=action.edit.id)
            case CheckpointSaved():
                ref = replace(event.checkpoint, stage=self._stage, seq=action.seq)
                origin = None if reply.run == self._run else reply.run
                own |= {"seq": action.seq, "checkpoint": ref, "adopted_from": origin}
            case EvaluationDone():
                own["index"] = action.index
        stamped: Event = replace(event, **own)
        return stamped


def _essence(command: Command) -> Json:
    """What a command makes a worker do; names and reasons of this trial left out."""
    match command:
        case StartStage(stage=stage):
            return ["start", stage.index, asdict(stage.task), stage.intervals, stage.seed]
        case RunInterval(n=n):
            return ["interval", n]
        case ApplyEdit(edit=edit):
            plain = asdict(edit)
            return ["edit", {k: v for k, v in plain.items() if k not in OWN}]
        case SaveCheckpoint(index=index, final=final):
            return ["save", index, final]
    raise AssertionError(f"no command: {command!r}")


def _name(event: Event) -> Any:
    """Under what an event is expected: see ``_keys``."""
    match event:
        case LaneOpened():
            return ("open",)
        case EvaluationDone(index=index):
            return ("row", index)
        case StageStarted() | IntervalDone() | EditApplied() | CheckpointSaved():
            return event.seq
    return None


def _is_row(name: Any) -> bool:
    """Whether an evaluation is expected under the name: it needs no worker of the lane."""
    return isinstance(name, tuple) and name[0] == "row"


def _seq(ref: CheckpointRef | None) -> int:
    return 0 if ref is None else ref.seq
