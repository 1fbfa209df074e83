"""A lane on Ray that fails while its worker trains: the lane that waits for its room gets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.beginning import begin, joined
from orchestrator.core.events import EvaluationDone, Event, WorkFailed
from orchestrator.core.journal import Journal
from orchestrator.driver import Driver
from tests.conftest import CPUS
from tests.fakes import tiny

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def refused(event: Event) -> Event:
    """The first lane's second row as a failure."""
    if isinstance(event, EvaluationDone) and (event.lane, event.index) == ("finetune-s0", 0):
        return WorkFailed(
            at=event.at, lane=event.lane, attempt=0, kind="evaluation", index=0, message="no"
        )
    return event


def test_the_worker_of_a_failed_lane_makes_room(tmp_path: Path) -> None:
    from orchestrator.cluster.on_ray import RayExecutor

    class Refusing(RayExecutor):
        def wait(self, timeout: float) -> list[Event]:
            return [refused(event) for event in super().wait(timeout)]

    config = tiny(
        lanes=[{"method": "finetune", "seeds": [0, 1]}],
        training={"intervals": 20, "epochs": 20},
        resources={"cpus": CPUS},
        failures={"evaluation": {"retries": 0, "then": "fail_lane"}},
    )
    executor = Refusing(tmp_path / "c", {lane.name: lane.resources for lane in config.lanes})
    driver = Driver(config, Journal(tmp_path / "journal.jsonl"), executor)
    assert driver.run(begin(config, "run"), joined(CPUS, 0)) == "failed"
    driver.journal.close()
    first, second = driver.state.lanes.values()
    assert (first.status, second.status) == ("failed", "done")
    assert first.index < 4, "it failed while it trained"
