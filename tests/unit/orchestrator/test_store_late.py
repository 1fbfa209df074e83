"""A tracking server that stands still, and does what it was asked for after that was given up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.tracking.background import TrackingAway
from orchestrator.tracking.ledger import LEDGER_FILE, Ledger
from orchestrator.tracking.store import Store
from orchestrator.tracking.tracker import Tracker
from tests.journals import story, write
from tests.simulation import pages
from tests.simulation.server import Server

URI = "http://tracking.example"
EACH = 3


class Stalls(Server):
    """Every third run or model is made only later."""

    asked = 0

    def request(self, work: Any, makes: bool = False) -> Any:
        self.asked += makes
        if makes and self.asked % EACH == 0:
            self.later.append(work)
            raise OSError("timed out")
        return super().request(work, makes)


def tracker(folder: Path, server: Server) -> Tracker:
    return Tracker(folder, URI, Store(folder, URI, connect=server.connect), drawn=pages)


def test_what_was_asked_for_twice_is_there_once(tmp_path: Path) -> None:
    write(tmp_path / "calm", story())
    write(tmp_path / "stalls", story())
    calm, stalls = Server(), Stalls()
    tracker(tmp_path / "calm", calm).project()
    shows, given_up = tracker(tmp_path / "stalls", stalls), 0
    while True:
        try:
            shows.project()
        except TrackingAway:
            given_up += 1
        else:
            break
    late = len(stalls.later)
    assert late == given_up > 1
    assert (len(stalls.runs), len(stalls.models)) == (len(calm.runs), len(calm.models))
    stalls.catch_up()
    there = len(stalls.runs) + len(stalls.models)
    assert there == len(calm.runs) + len(calm.models) + late, "each that was late is there twice"
    tracker(tmp_path / "stalls", stalls).project()  # another process: the ledger knows
    assert stalls.shown() == calm.shown()


def test_a_doubt_outlives_the_process_and_ends_with_the_store(tmp_path: Path) -> None:
    path = tmp_path / LEDGER_FILE
    ledger = Ledger(path, URI)
    for _ in range(2):
        ledger.doubt("run:a")
    assert Ledger(path, URI).doubtful == {"run:a"}
    assert len(path.read_bytes().splitlines()) == 1
    assert Ledger(path, "sqlite:///another.db").doubtful == set()
    ledger.forget()
    assert Ledger(path, URI).doubtful == set()
