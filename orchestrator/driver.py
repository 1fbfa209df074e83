"""The driver: events in, journal first, then actions. Holds no decision of its own."""

from __future__ import annotations

import math
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Protocol

from orchestrator.config.file import LaneConfig, Resources, RunConfig
from orchestrator.core.controller import Controller, Policies, fold
from orchestrator.core.events import (
    Action,
    Event,
    FinishRun,
    Record,
    RecordFailure,
    RunFinished,
    RunInterrupted,
    RunResumed,
    RunStarted,
    TrialRef,
)
from orchestrator.core.journal import JOURNAL_FILE, Journal, read
from orchestrator.core.state import RunState
from orchestrator.policies import GROWTH, MASKS, PHASES
from orchestrator.policies.growth import Progress
from workers.contract import Edit, InputError
from workers.tables import construct

Listener = Callable[[Record], None]


class Executor(Protocol):
    """What performs actions and answers with events (Ray, or a script in tests)."""

    def perform(self, action: Action) -> None: ...
    def wait(self, timeout: float) -> list[Event]: ...
    def close(self) -> None: ...


class LanePolicies:
    """The lanes' live policies; remembers what was decided, for the journal record."""

    def __init__(self, config: RunConfig) -> None:
        self.policies = {lane.name: _policies(lane) for lane in config.lanes}
        self.decided: tuple[Edit, ...] = ()

    def propose(self, lane: str, progress: Progress) -> tuple[Edit, ...]:
        """Growth first, then the phase, then the masks: each sees what the ones before decided."""
        decided: tuple[Edit, ...] = ()
        for policy in self.policies[lane]:
            for edit in policy.propose(progress):
                progress = progress.after(edit)
                decided = (*decided, edit)
        self.decided = decided
        return decided


class Policy(Protocol):
    """Decides edits of one kind."""

    def propose(self, progress: Progress) -> tuple[Edit, ...]: ...


def _policies(lane: LaneConfig) -> tuple[Policy, ...]:
    growth, phases = construct(GROWTH, lane.growth), construct(PHASES, lane.phases)
    return growth, phases, construct(MASKS, lane.masks, lane.domains())


class Interrupted(Exception):  # noqa: N818  (it is no error)
    """The user, the cluster or a listener asked the driver to stop; the run can be resumed."""


class Driver:
    """Runs one run to its end, from whatever its journal says has happened."""

    def __init__(
        self,
        config: RunConfig,
        journal: Journal,
        executor: Executor,
        listeners: tuple[Listener, ...] = (),
    ) -> None:
        self.controller = Controller(config)
        self.policies = LanePolicies(config)
        self.journal = journal
        self.executor = executor
        self.listeners = listeners
        records = (record for record, _ in read(journal.path))
        self.state: RunState = fold(self.controller, records)[0]

    def handle(self, event: Event) -> None:
        """Decide, write the event down durably, then perform what was decided."""
        self.policies.decided = ()
        live: Policies = self.policies
        self.state, actions = self.controller.decide(self.state, event, live)
        record = Record(event=event, edits=self.policies.decided)
        self.journal.append(record)
        for listener in self.listeners:
            listener(record)
        for action in actions:
            if isinstance(action, FinishRun):
                self.handle(RunFinished(at=time.time(), status=action.status))
                return
            if isinstance(action, RecordFailure):
                self.handle(action.failure)
                continue
            self.executor.perform(action)

    def run(self, first: RunStarted | RunResumed) -> str:
        """Go on until nothing is left; returns the run's status."""
        try:
            with _signals_noted() as noted:
                self.handle(first)
                while self.state.status == "running":
                    for event in self.executor.wait(timeout=1.0):
                        if self.state.status == "running":
                            self.handle(event)
                    if noted:
                        raise Interrupted(noted[0])
        except Interrupted as reason:
            if self.state.status == "running":
                self.handle(RunInterrupted(at=time.time(), reason=str(reason)))
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


def needs(resources: Resources) -> dict[str, float]:
    """What one worker of a lane asks of a node, in Ray's names; zeros left out."""
    wanted = {"CPU": resources.cpus, "GPU": resources.gpus, **resources.custom}
    return {name: amount for name, amount in wanted.items() if amount > 0}


def unplaceable(config: RunConfig, nodes: Iterable[Mapping[str, float]]) -> list[LaneConfig]:
    """Lanes whose workers do not all fit on the nodes even if these were empty."""
    nodes = list(nodes)
    return [lane for lane in config.lanes if _places(needs(lane.resources), nodes) < lane.workers]


def _places(need: Mapping[str, float], nodes: Iterable[Mapping[str, float]]) -> float:
    """How many workers that need so much the nodes hold together."""
    return sum(
        min(
            ((node.get(name, 0.0) / amount + 1e-9) // 1 for name, amount in need.items()),
            default=math.inf,
        )
        for node in nodes
    )


def check_resources(config: RunConfig, nodes: Sequence[Mapping[str, float]]) -> None:
    """Refuse lanes that could never be placed."""
    lines = [
        f"  lanes.{lane.name}.resources: {_amounts(needs(lane.resources))}"
        + (f" for each of {lane.workers} workers" if lane.workers > 1 else "")
        for lane in unplaceable(config, nodes)
    ]
    if lines:
        have = "; ".join(sorted({_amounts(node) for node in nodes}))
        raise InputError(
            "these lanes can never be placed, the nodes are not large enough:\n"
            + "\n".join(lines)
            + f"\nthe nodes have: {have}\nlower the lane's resources, give a larger cluster with "
            "--address, or wait for an autoscaler's nodes with --wait-for-nodes SECONDS"
        )


def _amounts(resources: Mapping[str, float]) -> str:
    hidden = ("node:", "memory", "object_store_memory")
    shown = {name: x for name, x in resources.items() if not name.startswith(hidden)}
    return ", ".join(f"{name} = {amount:g}" for name, amount in sorted(shown.items()))


def begin(
    config: RunConfig, run_id: str, cpus: float, gpus: float, trial: TrialRef | None = None
) -> RunStarted:
    """The first event of a new run, or of a trial's attempt."""
    return RunStarted(
        at=time.time(),
        run_id=run_id,
        name=config.name,
        config=config.plain(),
        config_digest=config.digest,
        code_version=code_version(),
        cpus=cpus,
        gpus=gpus,
        trial=trial,
    )


def takeover(cpus: float, gpus: float) -> RunResumed:
    """The first event of a driver that goes on with a run."""
    return RunResumed(at=time.time(), code_version=code_version(), cpus=cpus, gpus=gpus)


def first_record(run_dir: Path) -> RunStarted | None:
    """What the journal in ``run_dir`` says the run is; None where there is no whole record yet."""
    path = run_dir / JOURNAL_FILE
    if not path.is_file():
        return None
    for record, _ in read(path):
        if not isinstance(record.event, RunStarted):
            raise InputError(f"{path}: does not begin with RunStarted; it is not a run's journal")
        return record.event
    return None


def check_same_config(run_dir: Path | str, started: RunStarted, config: RunConfig) -> None:
    """Refuse to go on with a journal that another config wrote."""
    if started.config_digest != config.digest:
        raise InputError(
            f"{run_dir}: its journal belongs to config {started.config_digest}, this config is "
            f"{config.digest}; give another --run-dir, or run the config the journal was made with"
        )


def resume_command(run_dir: Path | str) -> str:
    """What to type to go on with an interrupted run."""
    return f"growstage resume {shlex.quote(str(run_dir))}"


def code_version() -> str:
    """Commit of the source tree (``+dirty`` where it differs), or the distribution's version."""
    root = Path(__file__).resolve().parent.parent
    git = ["git", "-C", str(root), "describe", "--always", "--dirty=+dirty", "--abbrev=12"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("growstage")
        except PackageNotFoundError:
            return f"unknown (python {sys.version_info.major}.{sys.version_info.minor})"
