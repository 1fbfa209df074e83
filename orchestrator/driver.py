"""The driver: events in, journal first, then actions. Holds no decision of its own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Protocol

from orchestrator.config.run import RunConfig
from orchestrator.core.actions import Action, FinishRun, RecordFailure
from orchestrator.core.clock import CLOCK, Clock
from orchestrator.core.controller import Decision, decide, fold
from orchestrator.core.edits import as_journalled
from orchestrator.core.events import Event, RunFinished, RunInterrupted
from orchestrator.core.journal import Journal, consistent, read
from orchestrator.core.records import Record
from orchestrator.core.state import RunState
from orchestrator.policies import View
from workers.contract import InputError, Json

Listener = Callable[[Record], None]


class Executor(Protocol):
    """What performs actions and answers with events (Ray, or a script in tests)."""

    def perform(self, action: Action) -> None: ...
    def wait(self, timeout: float) -> list[Event]: ...
    def close(self) -> None: ...


class LanePolicies:
    """The lanes' live policies; keeps what was decided last, for the journal record."""

    def __init__(self, config: RunConfig) -> None:
        self.policies = {lane.name: lane.live_policies() for lane in config.lanes}
        self.decided = Decision()

    def propose(self, lane: str, view: View, memory: Mapping[str, Json]) -> Decision:
        """Each policy in order: it sees what the ones before it decided."""
        changed: dict[str, Json] = {}
        for name, policy in self.policies[lane].items():
            if view.stage.index < policy.first_stage:
                continue
            seen = view if policy.uses_scores else replace(view, rows={})
            proposed = policy.propose(seen, memory.get(name))
            try:
                edits, kept = as_journalled(*proposed)
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"lane {lane}, policy {name!r}: proposed or remembers what no journal can hold "
                    f"({error}); edits and memory must be made of numbers, texts, lists and "
                    "dictionaries with text for keys"
                ) from error
            for edit in edits:
                view = view.after(edit)
            if kept != memory.get(name):
                changed[name] = kept
        self.decided = Decision(view.decided, changed)
        return self.decided


class Interrupted(Exception):  # noqa: N818  (it is no error)
    """The driver was asked to stop: by a signal, the end of a Ray job, or a listener.

    Everything durable is in the journal; ``growstage resume`` goes on. Exit code 130.
    """


class Driver:
    """Runs one run to its end, from whatever its journal says has happened."""

    def __init__(
        self,
        config: RunConfig,
        journal: Journal,
        executor: Executor,
        listeners: tuple[Listener, ...] = (),
        clock: Clock = CLOCK,
    ) -> None:
        self.clock = clock
        self.policies = LanePolicies(config)
        self.journal = journal
        self.executor = executor
        self.listeners = listeners
        records = (record for record, _ in read(journal.path))
        with consistent(journal.path):
            self.state: RunState = fold(records)[0]

    def handle(self, event: Event) -> None:
        """Decide, write the event down durably, then perform what was decided."""
        self.policies.decided = Decision()
        self.state, actions = decide(self.state, event, self.policies)
        decided = self.policies.decided
        record = Record(event=event, edits=decided.edits, memory=dict(decided.memory))
        self.journal.append(record)
        for listener in self.listeners:
            listener(record)
        for action in actions:
            if isinstance(action, FinishRun):
                self.handle(RunFinished(at=self.clock.now(), status=action.status))
                return
            if isinstance(action, RecordFailure):
                self.handle(action.failure)
                continue
            self.executor.perform(action)

    def run(self, *first: Event) -> str:
        """Take in what happened ``first`` and go on until nothing is left; the run's status."""
        with _signals_noted() as noted:
            try:
                for event in first:
                    self.handle(event)
                while self.state.status == "running":
                    for event in self.executor.wait(timeout=1.0):
                        if self.state.status == "running":
                            self.handle(event)
                    if noted:
                        raise Interrupted(noted[0])
            except Interrupted as reason:
                if self.state.status == "running":
                    self.handle(RunInterrupted(at=self.clock.now(), reason=str(reason)))
            finally:
                self.executor.close()
        return self.state.status


@contextmanager
def _signals_noted() -> Iterator[list[str]]:
    """Names of the SIGINT and SIGTERM that came while the driver runs in the main thread.

    Noted, not raised: an exception in the middle of a write would tear the journal. A driver in
    another thread (a trial) is stopped by its listeners instead.
    """
    noted: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(signal.Signals(number).name)

    old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
