"""A lane of two worker actors on Ray: kill -9 of one between a new mask and its acknowledgement."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from orchestrator.beginning import begin, joined
from orchestrator.core.events import LaneOpened, WorkFailed
from orchestrator.core.journal import Journal, read
from orchestrator.core.records import Record
from orchestrator.driver import Driver
from tests.fakes import tiny
from tests.two_workers import MASKED, essence, of
from workers.edits import RefreshMask

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


class Killer:
    """Ends one of the lane's processes as soon as the second mask stands in the journal."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.opened: list[Any] = []
        self.killed: list[int] = []

    def __call__(self, record: Record) -> None:
        if isinstance(record.event, LaneOpened):
            self.opened.append(record.event.report)
        masks = [edit for edit in record.edits if isinstance(edit, RefreshMask)]
        if any(mask.version == 2 for mask in masks) and not self.killed:
            self.killed.append(self.opened[-1].replicas[self.rank].pid)
            os.kill(self.killed[0], signal.SIGKILL)


def run(folder: Path, *listeners: Any) -> list[Any]:
    from orchestrator.cluster.on_ray import RayExecutor

    folder.mkdir()
    config = tiny(**MASKED, workers=2)
    journal = Journal(folder / "journal.jsonl")
    resources = {lane.name: lane.resources for lane in config.lanes}
    executor = RayExecutor(folder / "checkpoints", resources)
    driver = Driver(config, journal, executor, listeners)
    assert driver.run(begin(config, "run"), joined(2, 0)) == "done"
    journal.close()
    return [record.event for record, _ in read(folder / "journal.jsonl")]


@pytest.mark.slow
def test_one_of_two_killed_before_it_acknowledges_a_mask(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    killer = Killer(rank=1)
    killed = run(tmp_path / "killed", killer)
    assert len(killer.killed) == 1
    (failure,) = of(killed, WorkFailed)
    assert failure.kind == "worker_lost"
    first, second = of(killed, LaneOpened)
    pids = {replica.pid for event in (first, second) for replica in event.report.replicas}
    assert len(pids) == 4, "the whole group was built anew"
    assert essence(killed) == essence(whole)
