"""A Ray of the run's own that lost its node: nothing brings one back, and the run ends."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from orchestrator.cluster.executor import PATIENCE_S, WATCH_S, WorkerExecutor
from orchestrator.core.clock import Clock
from workers.contract import RunError


class Hours(Clock):
    """A clock that goes on when somebody sleeps, and by a look's time."""

    def __init__(self) -> None:
        self.at = 0.0

    def moment(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += max(seconds, WATCH_S + 0.1)


class Nodes:
    """A cluster by its size alone, which is what is looked at where no call is under way."""

    cpus = 2.0

    def size(self) -> tuple[float, float]:
        return self.cpus, 0.0


def executor(folder: Path, patience: float) -> tuple[WorkerExecutor, Nodes, Hours]:
    nodes, clock = Nodes(), Hours()
    made = WorkerExecutor(folder, {}, nodes, patience=patience, clock=clock)  # type: ignore[arg-type]
    return made, nodes, clock


def watch(workers: WorkerExecutor, clock: Hours, until: float) -> None:
    while clock.at < until:
        workers.wait(1.0)


def test_it_ends_after_a_while_and_says_how_to_go_on(tmp_path: Path) -> None:
    workers, nodes, clock = executor(tmp_path, PATIENCE_S)
    watch(workers, clock, until=10 * PATIENCE_S)
    nodes.cpus = 0.0
    lost = clock.at
    with pytest.raises(RunError, match=r"no node for 60 s.*`growstage resume`"):
        watch(workers, clock, until=100 * PATIENCE_S)
    look = WATCH_S + 0.1
    assert PATIENCE_S - look <= clock.at - lost <= PATIENCE_S + 3 * look


def test_a_node_that_comes_back_in_time_counts(tmp_path: Path) -> None:
    workers, nodes, clock = executor(tmp_path, PATIENCE_S)
    for _ in range(5):
        nodes.cpus = 0.0
        watch(workers, clock, until=clock.at + 0.8 * PATIENCE_S)
        nodes.cpus = 2.0
        workers.wait(1.0)
        workers.wait(1.0)


def test_a_cluster_that_others_run_is_waited_for(tmp_path: Path) -> None:
    workers, nodes, clock = executor(tmp_path, math.inf)
    nodes.cpus = 0.0
    watch(workers, clock, until=100 * PATIENCE_S)
