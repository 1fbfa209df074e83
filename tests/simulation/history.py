"""One history: drivers come and go until the run has ended, in a world that chance makes."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from orchestrator.beginning import joined, takeover
from orchestrator.cluster.executor import WorkerExecutor
from orchestrator.core.controller import fold
from orchestrator.core.journal import JOURNAL_FILE, Journal, acted, read
from orchestrator.driver import Driver
from orchestrator.session import begin_journal
from orchestrator.tracking.background import TrackingAway
from orchestrator.tracking.ledger import LEDGER_FILE
from orchestrator.tracking.store import Store
from orchestrator.tracking.tracker import Tracker
from tests.simulation import pages
from tests.simulation.chance import Chance, DriverKilled, Violation, must
from tests.simulation.cluster import Answer, SimulatedCluster
from tests.simulation.runs import RUNS, Prepared, prepared
from tests.simulation.server import Server
from tests.simulation.trainer import CHECKPOINTS
from tests.simulation.world import World
from workers.contract import InputError, RunError

URI = "http://tracking.example"
SESSIONS = 40
"""Drivers after which a history must have ended: faults are fewer."""


@dataclass(slots=True)
class Seen:
    """What the laws are checked against."""

    run: str
    folder: Path
    config: Prepared
    server: Server
    cluster: SimulatedCluster
    chance: Chance
    performed: list[Any] = field(default_factory=list)
    """Actions in order, of all drivers."""
    lost: set[str] = field(default_factory=set)
    """Where checkpoints lay that were taken away."""
    status: str = ""


class Watched(WorkerExecutor):
    """The executor, with what it is asked for written down and looked at."""

    seen: Seen
    world: World

    def perform(self, action: Any) -> None:
        path = self.seen.folder / JOURNAL_FILE
        must(not self.world.disk.unsynced(path), "acts on what is not durable:", type(action))
        self.seen.performed.append(action)
        super().perform(action)


def tell(random: Random, run: str, folder: Path, without: tuple[str, ...] = ()) -> Seen:
    """Live through one history in ``folder``; raises Violation where something did not hold.

    To be called where the simulated trainer is ``in_place``.
    """
    chance = Chance(random, without)
    world = World(chance)
    nodes = RUNS[run][0]
    seen = Seen(run, folder, prepared(run), Server(world), SimulatedCluster(world, nodes), chance)
    for _ in range(SESSIONS):
        seen.status = _session(seen, world)
        world.passed += chance.between(1, 30)
        given_up = seen.status == "failed" and not chance.left and chance.often(0.5)
        if seen.status == "done" or given_up:
            break
        if seen.status not in ("failed", "killed", "interrupted", "refused"):
            raise Violation(f"a driver ended with {seen.status}")
        _lose_checkpoints(seen)
    else:
        raise Violation(f"no end after {SESSIONS} drivers")
    _bring_up_to_date(seen, world)
    return seen


def _lose_checkpoints(seen: Seen) -> None:
    """What lanes would be opened from, or what is to be scored, is gone, where no lane is made of
    another one's."""
    path = seen.folder / JOURNAL_FILE
    if not seen.chance.may("checkpoint_lost") or not path.is_file():
        return
    state, _ = fold(record for record, _ in read(path))
    lanes = state.lanes.values()
    if any(lane.plan.spec.merged or lane.plan.stem for lane in lanes):
        return
    opened = [lane.base for lane in lanes if lane.base and lane.status != "done"]
    for uri in dict.fromkeys(ref.uri for ref in [*opened, *state.evaluations.values()]):
        if seen.chance.seldom_asked("checkpoint_lost"):
            CHECKPOINTS.pop(uri, None)
            seen.lost.add(uri)


def _session(seen: Seen, world: World) -> str:
    """One driver's life, as ``orchestrator.session`` puts it together; its status or its end."""
    world.driving = True
    try:
        with redirect_stderr(io.StringIO()):
            return _drive(seen, world)
    except DriverKilled:
        if seen.chance.often(0.5):
            world.disk.crash()
        return "killed"
    except (InputError, RunError):
        return "refused"
    finally:
        world.driving, world.beside = False, lambda: None
        world.disk.locked.clear()
        seen.cluster.leave()
        if seen.chance.fault("store_emptied"):
            seen.server.empty()


def _drive(seen: Seen, world: World) -> str:
    folder, config = seen.folder, seen.config
    journal = Journal(folder / JOURNAL_FILE, disk=world.disk)
    begin_journal(config, folder, URI, journal, world)
    tracker = _tracker(seen, world, lambda: journal.offset)
    resources = {lane.name: lane.resources for lane in config.lanes}
    workers = Watched(folder / "checkpoints", resources, seen.cluster, clock=world)
    workers.seen, workers.world = seen, world
    try:
        driver = Driver(config, journal, workers, clock=world)
        if driver.state.status == "done":
            return "done"
        known = acted(folder)
        tracker.connect()
        size = seen.cluster.size()
        first = takeover(*size, URI) if known else joined(*size)
        with _beside(world, tracker):
            status = driver.run(replace(first, at=world.now()))
        if status in ("done", "failed") or seen.chance.often(0.3):
            _check_state(seen, driver)
        if status == "interrupted" and not world.signalled:
            raise KeyboardInterrupt  # somebody stops the simulation itself
        world.signalled = False
        must(not workers.reserved and not seen.cluster.rooms, "room is left reserved")
        must(not seen.cluster.workers, "workers are left behind", seen.cluster.workers)
        return status
    finally:
        journal.close()


def _check_state(seen: Seen, driver: Driver) -> None:
    folded, _ = fold(record for record, _ in read(seen.folder / JOURNAL_FILE))
    must(folded == driver.state, "the journal folds to another state than the driver's")


def _tracker(seen: Seen, world: World, until: Callable[[], float] = lambda: math.inf) -> Tracker:
    store = Store(seen.folder, URI, connect=seen.server.connect, disk=world.disk)
    return Tracker(seen.folder, URI, store, drawn=pages, until=until, clock=world)


@contextmanager
def _beside(world: World, tracker: Tracker) -> Iterator[None]:
    """The tracker goes on now and then while the driver works, as its thread does."""
    busy = False

    def project() -> None:
        nonlocal busy
        if busy:
            return
        busy = True
        try:
            tracker.project(lambda: not world.chance.fault("tracker_stopped"))
        except TrackingAway:
            pass
        finally:
            busy = False

    world.beside = project
    yield
    world.beside = lambda: None
    project()


def _bring_up_to_date(seen: Seen, world: World) -> None:
    """What a resume of a run that is done does, until the server shows all."""
    seen.chance.left = 0
    world.passed += 1000
    seen.server.catch_up([*seen.server.later])
    with redirect_stderr(io.StringIO()):
        offset = _tracker(seen, world).project()
    size = (seen.folder / JOURNAL_FILE).stat().st_size
    must(offset == size, "the tracker ends before the journal:", offset, size)


__all__ = ["LEDGER_FILE", "Answer", "tell"]
