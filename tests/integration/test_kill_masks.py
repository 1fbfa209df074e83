"""kill -9 around ``RefreshMask`` on a real cluster: one mask version everywhere, the same bits."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.events import EditApplied, IntervalDone, LaneOpened
from tests.commands import Command
from tests.watched import Watched

pytestmark = pytest.mark.ray

CONFIG = """
name = "masks"
[stream]
kind = "domains"
train_samples = 400
test_samples = 100
[model]
experts = 4
[model.head]
kind = "moe"
hidden = [32]

[model.head.layer]
kind = "moe"
router = "adaptive"
selector = "topk"
expert = { kind = "bottleneck", width = 8 }
[training]
epochs = 12
intervals = 10
[policies.router]
kind = "adapt_router"
from_stage = 1
[policies.phases]
kind = "three_phases"
from_stage = 1
[policies.masks]
kind = "usage_masks"
sharing = "copy"
max_copies = 4
from_stage = 1
[[lanes]]
"""


def essence(run_dir: Path) -> Any:
    """Checkpoints, scores and the fingerprint of every edit; each edit gave only one."""
    from orchestrator.session import report_of

    prints: dict[str, set[str]] = {}
    versions: dict[tuple[str, int], set[int]] = {}
    for record in Watched(run_dir).read():
        event = record.event
        if isinstance(event, EditApplied):
            prints.setdefault(event.edit.id, set()).add(event.report.fingerprint)
        if isinstance(event, IntervalDone):
            key = (event.report.stage, event.report.n)
            versions.setdefault(key, set()).add(event.report.revision)
    assert all(len(found) == 1 for found in [*prints.values(), *versions.values()])
    lane = report_of(run_dir)["lanes"][0]
    digests = [stage["checkpoint"]["digest"] for stage in lane["stages"]]
    return lane["matrix"], digests, prints, versions


@pytest.fixture(scope="module")
def whole(
    cluster: str,
    make_runs: Callable[[Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("whole")
    config = folder / "masks.toml"
    config.write_text(CONFIG)
    run_dir = make_runs(folder) / "whole"
    Command(
        "orchestrator", "run", config, "--run-dir", run_dir, env={"RAY_ADDRESS": cluster}
    ).succeed()
    return config, run_dir


def test_driver_killed_with_a_mask_decided_and_not_acknowledged(
    whole: tuple[Path, Path], cluster: str, runs: Path
) -> None:
    run_dir, env = runs / "driver", {"RAY_ADDRESS": cluster}
    driver = Command("orchestrator", "run", whole[0], "--run-dir", run_dir, env=env)
    watched = Watched(run_dir)
    driver.until(lambda: watched.open_edit("refresh_mask"))
    driver.kill()
    Command("orchestrator", "resume", run_dir, env=env).succeed()
    assert essence(run_dir) == essence(whole[1])


@pytest.mark.slow
def test_worker_killed_with_a_mask_decided_and_not_acknowledged(
    whole: tuple[Path, Path], cluster: str, runs: Path
) -> None:
    run_dir, env = runs / "worker", {"RAY_ADDRESS": cluster}
    driver = Command("orchestrator", "run", whole[0], "--run-dir", run_dir, env=env)
    watched = Watched(run_dir)

    def phase_set() -> bool:
        seen = [record.event for record in watched.read()]
        return any(isinstance(e, EditApplied) and e.edit.kind == "set_phase" for e in seen)

    driver.until(phase_set)
    driver.until(lambda: watched.open_edit("refresh_mask"))
    os.kill(watched.worker(), signal.SIGKILL)
    driver.succeed()
    assert sum(isinstance(record.event, LaneOpened) for record in watched.read()) == 2
    assert essence(run_dir) == essence(whole[1])
