"""Lanes one after another in one worker process: a start is spared, nothing else is changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.beginning import begin, joined
from orchestrator.core.events import LaneOpened
from orchestrator.core.journal import Journal, read
from orchestrator.driver import Driver, Executor
from tests.conftest import CPUS
from tests.fakes import tiny
from tests.local import LocalExecutor

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

CONFIG = {
    "lanes": [
        {"method": "finetune", "seeds": [0, 1]},
        {"method": {"kind": "replay", "buffer": 20, "batch": 8}},
        {"name": "narrow", "method": "finetune", "resources": {"cpus": CPUS - 1}},
    ],
    "resources": {"cpus": CPUS},
}


def run(folder: Path, executor: Executor) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Lane -> process of its worker; lane -> digests of its checkpoints."""
    config = tiny(**CONFIG)
    driver = Driver(config, Journal(folder / "journal.jsonl"), executor)
    assert driver.run(begin(config, "run"), joined(CPUS, 0)) == "done"
    driver.journal.close()
    events = [record.event for record, _ in read(folder / "journal.jsonl")]
    pids = {event.lane: event.report.pid for event in events if isinstance(event, LaneOpened)}
    lanes = driver.state.lanes.items()
    digests = {
        name: [lane.ends[index].checkpoint.digest for index in sorted(lane.ends)]
        for name, lane in lanes
    }
    return pids, digests


@pytest.mark.slow
def test_one_process_serves_lane_after_lane_to_the_same_bits(tmp_path: Path) -> None:
    from orchestrator.cluster.on_ray import RayExecutor

    for name in ("shared", "alone"):
        (tmp_path / name).mkdir()
    need = {lane.name: lane.resources for lane in tiny(**CONFIG).lanes}
    pids, digests = run(tmp_path / "shared", RayExecutor(tmp_path / "c", need))
    *alike, narrow = pids.values()
    assert len(alike) == 3
    assert len(set(alike)) == 1
    assert narrow not in alike, "another reservation is another process"
    assert digests == run(tmp_path / "alone", LocalExecutor(tmp_path / "d"))[1]
