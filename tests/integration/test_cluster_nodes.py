"""Several lanes on several nodes of a fake cluster: spread, a node that dies, a node that joins.

``GROWSTAGE_CHAOS`` adds the comparison with one node, which says what more nodes bring.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.events import (
    CheckpointSaved,
    ClusterChanged,
    LaneOpened,
    RunFinished,
    WorkFailed,
)
from orchestrator.journal import read
from tests.conftest import ROOT

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
epochs = 60
intervals = 4
[growth]
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
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without room for lanes; ended by the handles of its own processes."""
    folder = tempfile.mkdtemp(prefix="gs", dir="/tmp")  # short: sockets live under it
    monkeypatch.setenv("RAY_TMPDIR", folder)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        yield cluster
    finally:
        cluster.shutdown()


def launch(cluster: Any, folder: Path) -> subprocess.Popen[str]:
    config = folder / "nodes.toml"
    config.write_text(CONFIG)
    command = [sys.executable, "-m", "orchestrator", "run", str(config), "--run-dir"]
    return subprocess.Popen(
        [*command, str(folder / "runs" / "one"), "--address", cluster.address],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def events(folder: Path) -> list[Any]:
    path = folder / "runs" / "one" / "journal.jsonl"
    return [record.event for record, _ in read(path)] if path.exists() else []


def wait_until(process: subprocess.Popen[str], folder: Path, happened: Any) -> None:
    deadline = time.monotonic() + 240
    while not happened(events(folder)):
        assert process.poll() is None, process.communicate()[0][-4000:]
        assert time.monotonic() < deadline, Counter(type(e).__name__ for e in events(folder))
        time.sleep(0.1)


def placed(cluster: Any) -> Counter[str]:
    """Live workers of lanes by node."""
    code = (
        "import ray, collections, json; ray.init(address='%s', log_to_driver=False);"
        "from ray._private.state import actors;"
        "print('NODES', json.dumps([a['Address']['NodeID'] for a in actors().values()"
        " if a['State'] == 'ALIVE' and a['ActorClassName'] == 'LaneWorker']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code % cluster.address],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    import json

    return Counter(json.loads(done.stdout.partition("NODES ")[2]))


def test_nodes_die_and_join_and_every_lane_ends(cluster: Any, tmp_path: Path) -> None:
    nodes = [cluster.add_node(**NODE) for _ in range(2)]
    process = launch(cluster, tmp_path)
    opened = lambda seen: sum(isinstance(event, LaneOpened) for event in seen)  # noqa: E731
    wait_until(process, tmp_path, lambda seen: opened(seen) == 4)
    spread = placed(cluster)
    assert sorted(spread.values()) == [2, 2], spread

    joined = cluster.add_node(**NODE)
    wait_until(process, tmp_path, lambda seen: opened(seen) == 6)
    assert sorted(placed(cluster).values()) == [2, 2, 2]
    before = opened(events(tmp_path))
    cluster.remove_node(nodes[0], allow_graceful=False)
    wait_until(process, tmp_path, lambda seen: opened(seen) > before)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-4000:]
    assert joined.node_id != nodes[0].node_id

    seen = events(tmp_path)
    assert isinstance(seen[-1], RunFinished)
    assert seen[-1].status == "done"
    changes = [event.cpus for event in seen if isinstance(event, ClusterChanged)]
    assert changes[0] == 6.0
    assert 4.0 in changes
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


@pytest.mark.skipif("GROWSTAGE_CHAOS" not in os.environ, reason="takes minutes: make chaos")
@pytest.mark.parametrize("number", [1, 3])
def test_wall_time_by_nodes(cluster: Any, tmp_path: Path, number: int) -> None:
    for _ in range(number):
        cluster.add_node(**NODE)
    process = launch(cluster, tmp_path)
    output, _ = process.communicate(timeout=580)
    assert process.returncode == 0, output[-4000:]
    check_exactly_once(tmp_path)
    seen = events(tmp_path)
    print(f"{number} node(s): {seen[-1].at - seen[0].at:.1f} s from the first event to the last")
