"""A tracking server that stands still, and does what it was asked for after that was given up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.events import RunInterrupted, RunResumed
from orchestrator.core.records import Record
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

    def request(self, work: Any, late: bool = False) -> Any:
        makes = work.__name__ == "make"
        self.asked += makes
        if makes and self.asked % EACH == 0:
            self.later.append(work)
            raise OSError("timed out")
        return super().request(work, late)


class Overtaken(Server):
    """What sets something is given up the first time, and done after all that came later."""

    SETS = ("set_terminated", "update_run", "log_text")

    def __init__(self) -> None:
        super().__init__()
        self.given_up: set[tuple[str, ...]] = set()

    def request(self, work: Any, late: bool = False) -> Any:
        _, name, *_ = work.__qualname__.split(".")
        held = [cell.cell_contents for cell in work.__closure__ or ()]
        what = (name, *(one for one in held if isinstance(one, str)))
        if name not in self.SETS or what in self.given_up:
            return super().request(work, late)
        self.given_up.add(what)
        self.later.append(work)
        raise OSError("timed out")


def tracker(folder: Path, server: Server) -> Tracker:
    return Tracker(folder, URI, Store(folder, URI, connect=server.connect), drawn=pages)


def until_done(shows: Tracker) -> int:
    """Go on until the server shows all; how often it did not answer."""
    given_up = 0
    while True:
        try:
            shows.project()
        except TrackingAway:
            given_up += 1
        else:
            return given_up


def test_what_was_asked_for_twice_is_there_once(tmp_path: Path) -> None:
    write(tmp_path / "calm", story())
    write(tmp_path / "stalls", story())
    calm, stalls = Server(), Stalls()
    tracker(tmp_path / "calm", calm).project()
    given_up = until_done(tracker(tmp_path / "stalls", stalls))
    late = len(stalls.later)
    assert late == given_up > 1
    assert (len(stalls.runs), len(stalls.models)) == (len(calm.runs), len(calm.models))
    stalls.catch_up([*stalls.later])
    there = len(stalls.runs) + len(stalls.models)
    assert there == len(calm.runs) + len(calm.models) + late, "each that was late is there twice"
    tracker(tmp_path / "stalls", stalls).project()  # another process: the ledger knows
    assert stalls.shown() == calm.shown()


def test_what_was_overtaken_is_set_again(tmp_path: Path) -> None:
    *before, last = story()
    at = last.event.at
    again = [
        Record(event=RunInterrupted(at=at, reason="SIGINT")),
        Record(event=RunResumed(at=at, code_version="c", cpus=2.0, gpus=0.0)),
        last,
    ]
    write(tmp_path / "calm", [*before, *again])
    calm, overtaken = Server(), Overtaken()
    tracker(tmp_path / "calm", calm).project()
    shows = tracker(tmp_path / "stalls", overtaken)
    middle, given_up = len(before) // 2, 0
    for part in (before[:middle], [*before[middle:], *again]):
        write(tmp_path / "stalls", part)
        given_up += until_done(shows)
    assert given_up == len(overtaken.later) > 10
    assert overtaken.shown() == calm.shown()
    overtaken.catch_up(overtaken.later[::-1])
    late, wanted = overtaken.shown()["runs"], calm.shown()["runs"]
    wrong = {what for key in wanted for what in wanted[key] if late[key][what] != wanted[key][what]}
    assert wrong == {"status", "texts"}
    tracker(tmp_path / "stalls", overtaken).project()
    assert overtaken.shown() == calm.shown()


class Killed(BaseException):
    """Of the process, while it waits for an answer."""


class Outlives(Server):
    """The process is killed while it asks for one of the runs and models, which is made later."""

    def __init__(self, ask: int) -> None:
        super().__init__()
        self.left = ask

    def request(self, work: Any, late: bool = False) -> Any:
        self.left -= work.__name__ == "make"
        if self.left == 0:
            self.left = -1
            self.later.append(work)
            raise Killed
        return super().request(work, late)


@pytest.mark.parametrize("ask", [2, 5, 9])
def test_what_was_asked_for_by_a_process_that_was_killed_is_there_once(
    tmp_path: Path, ask: int
) -> None:
    write(tmp_path / "calm", story())
    write(tmp_path / "killed", story())
    calm, outlives = Server(), Outlives(ask)
    tracker(tmp_path / "calm", calm).project()
    with pytest.raises(Killed):
        tracker(tmp_path / "killed", outlives).project()
    tracker(tmp_path / "killed", outlives).project()
    (late,) = outlives.later
    outlives.catch_up([late])
    there = len(outlives.runs) + len(outlives.models)
    assert there == len(calm.runs) + len(calm.models) + 1
    tracker(tmp_path / "killed", outlives).project()
    assert outlives.shown() == calm.shown()


class Silent(Server):
    """Every third run or model is made, and its answer lost."""

    asked = 0

    def request(self, work: Any, late: bool = False) -> Any:
        answer = super().request(work, late)
        self.asked += work.__name__ == "make"
        if work.__name__ == "make" and self.asked % EACH == 0:
            raise OSError("timed out")
        return answer


def test_what_was_made_unheard_is_found_and_not_made_again(tmp_path: Path) -> None:
    write(tmp_path / "calm", story())
    write(tmp_path / "silent", story())
    calm, silent = Server(), Silent()
    tracker(tmp_path / "calm", calm).project()
    assert until_done(tracker(tmp_path / "silent", silent)) > 1
    assert silent.made == calm.made
    assert silent.shown() == calm.shown()


def test_figures_that_a_stop_left_undrawn_are_drawn_by_the_next_process(tmp_path: Path) -> None:
    write(tmp_path / "calm", story())
    calm = Server()
    tracker(tmp_path / "calm", calm).project()
    behind = 0
    for asked in range(1, 9):
        folder, server = tmp_path / str(asked), Server()
        write(folder, story())
        answers = iter([True] * asked)
        tracker(folder, server).project(lambda answers=answers: next(answers, False))
        behind += server.shown() != calm.shown()
        tracker(folder, server).project()
        assert server.shown() == calm.shown(), asked
    assert behind > 1


def test_a_doubt_outlives_the_process_and_ends_with_the_store(tmp_path: Path) -> None:
    path = tmp_path / LEDGER_FILE
    ledger = Ledger(path, URI)
    for _ in range(2):
        ledger.doubt("page:a")
    assert Ledger(path, URI).doubtful == {"page:a"}
    assert len(path.read_bytes().splitlines()) == 1
    assert Ledger(path, "sqlite:///another.db").doubtful == set()
    ledger.forget()
    assert Ledger(path, URI).doubtful == set()
