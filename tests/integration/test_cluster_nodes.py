"""Several lanes on several nodes of a fake cluster: spread, a node that dies, a node that joins.

``GROWSTAGE_CHAOS`` adds how many lanes one node and three run at once.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.events import (
    CheckpointSaved,
    ClusterChanged,
    LaneClosed,
    LaneOpened,
    RunFinished,
    WorkFailed,
)
from orchestrator.core.journal import read
from tests.commands import Command

pytestmark = pytest.mark.ray

CONFIG = """
name = "nodes"
[stream]
kind = "permuted"
dataset = "digits"
tasks = 3
[model]
head = { kind = "moe", hidden = [32] }
[training]
epochs = 120
intervals = 4
[policies.growth]
kind = "periodic"
[resources]
cpus = 1
gpus = 0.5
custom = { lane = 1 }
[[lanes]]
method = { kind = "replay", buffer = 100 }
seeds = [0, 1, 2, 3, 4, 5]
"""
NODE = {"num_cpus": 2, "num_gpus": 1, "resources": {"lane": 2}}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without room for lanes; ended by the handles of its own processes."""
    folder = tempfile.mkdtemp(prefix="gs", dir="/tmp")  # short: sockets live under it
    monkeypatch.setenv("RAY_TMPDIR", folder)
    from ray.cluster_utils import Cluster

    fake = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        yield fake
    finally:
        fake.shutdown()


def launch(fake: Any, folder: Path) -> Command:
    config = folder / "nodes.toml"
    config.write_text(CONFIG)
    run_dir = folder / "runs" / "one"
    return Command("orchestrator", "run", config, "--run-dir", run_dir, "--address", fake.address)


def events(folder: Path) -> list[Any]:
    path = folder / "runs" / "one" / "journal.jsonl"
    return [record.event for record, _ in read(path)] if path.exists() else []


def placed(fake: Any) -> Counter[str]:
    """Live workers of lanes by node."""
    return Counter(
        actor["Address"]["NodeID"]
        for actor in fake.global_state.actor_table(None).values()
        if actor["State"] == "ALIVE" and actor["ActorClassName"] == "LaneWorker"
    )


@pytest.mark.slow
def test_nodes_die_and_join_and_every_lane_ends(fake: Any, tmp_path: Path) -> None:
    nodes = [fake.add_node(**NODE) for _ in range(2)]
    driver = launch(fake, tmp_path)
    opened = lambda: sum(isinstance(event, LaneOpened) for event in events(tmp_path))  # noqa: E731
    driver.until(lambda: opened() == 4)
    spread = placed(fake)
    assert sorted(spread.values()) == [2, 2], spread

    joined = fake.add_node(**NODE)
    driver.until(lambda: opened() == 6)
    assert sorted(placed(fake).values()) == [2, 2, 2]
    before = opened()
    fake.remove_node(nodes[0], allow_graceful=False)
    driver.until(lambda: opened() > before)
    driver.succeed()
    assert joined.node_id != nodes[0].node_id

    seen = events(tmp_path)
    assert isinstance(seen[-1], RunFinished)
    assert seen[-1].status == "done"
    changes = [event.cpus for event in seen if isinstance(event, ClusterChanged)]
    assert changes[:3] == [4.0, 6.0, 4.0], "as it begins, a node more, a node less"
    lost = [event for event in seen if isinstance(event, WorkFailed)]
    assert {event.kind for event in lost if event.lane} <= {"worker_lost", "evaluation"}
    assert len({event.lane for event in lost if event.kind == "worker_lost"}) == 2
    check_exactly_once(tmp_path)


def check_exactly_once(folder: Path) -> None:
    """Six lanes of three stages, each stage saved once, each edit decided once."""
    records = [record for record, _ in read(folder / "runs" / "one" / "journal.jsonl")]
    decided = Counter((edit.stage, edit.id) for record in records for edit in record.edits)
    assert len(decided) == 6 * 2
    assert set(decided.values()) == {1}
    saved = Counter(
        (r.event.lane, r.event.index)
        for r in records
        if isinstance(r.event, CheckpointSaved) and r.event.final
    )
    assert len(saved) == 6 * 4
    assert set(saved.values()) == {1}
    from orchestrator.session import report_of

    for lane in report_of(folder / "runs" / "one")["lanes"]:
        assert lane["status"] == "done"
        assert len(lane["matrix"]) == 3


@pytest.mark.skipif("GROWSTAGE_CHAOS" not in os.environ, reason="takes minutes: make test-chaos")
@pytest.mark.parametrize("number", [1, 3])
def test_more_nodes_run_more_lanes_at_once(fake: Any, tmp_path: Path, number: int) -> None:
    """What more nodes bring is room: fake ones share the processors, so time would say nothing."""
    for _ in range(number):
        fake.add_node(**NODE)
    launch(fake, tmp_path).succeed(580)
    check_exactly_once(tmp_path)
    open_now: set[str] = set()
    most = 0
    for event in events(tmp_path):
        if isinstance(event, LaneOpened):
            open_now.add(event.lane)
        if isinstance(event, LaneClosed):
            open_now.discard(event.lane)
        most = max(most, len(open_now))
    print(f"{number} node(s): at most {most} lanes at once")
    assert most == 2 * number
