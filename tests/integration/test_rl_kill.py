"""kill -9 of an RL lane's worker while its masks are refreshed, and again while it grows."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from orchestrator.core.events import EditApplied, EvaluationDone, IntervalDone, LaneOpened
from tests.commands import Command
from tests.watched import Watched

pytestmark = pytest.mark.ray

CONFIG = """
name = "played"
checkpoint_every = 1
[stream]
kind = "tests.unit.workers.rl.toy:ToyStream"
[model]
kind = "actor_critic"
encoder = 16
layer = { selector = { kind = "topk", k = 1, weights = "full" } }
hidden = [16]
[training]
kind = "ppo"
num_envs = 8
rollout = 16
steps_per_stage = 512
intervals = 4
minibatches = 4
num_env_runners = 1
eval_max_steps = 20
[policies.growth]
kind = "periodic"
[policies.masks]
kind = "usage_masks"
sharing = "claim"
refresh_every = 3
[[lanes]]
resources = { cpus = 0.5 }
"""


@pytest.mark.slow
def test_a_worker_killed_during_a_mask_refresh_and_during_growth(cluster: str, runs: Path) -> None:
    config, run_dir = runs / "played.toml", runs / "played"
    config.write_text(CONFIG)
    driver = Command(
        "orchestrator", "run", config, "--run-dir", run_dir, env={"RAY_ADDRESS": cluster}
    )
    watched = Watched(run_dir)
    for kind in ("refresh_mask", "grow"):
        driver.until(lambda kind=kind: watched.open_edit(kind))
        os.kill(watched.worker(), signal.SIGKILL)
    driver.succeed()

    events = [record.event for record in watched.read()]
    assert sum(isinstance(event, LaneOpened) for event in events) == 3, driver.err
    decided = [edit for record in watched.read() for edit in record.edits]
    assert [edit.kind for edit in decided] == [
        "refresh_mask", "grow", "refresh_mask", "refresh_mask",
    ]  # fmt: skip
    applied = {event.edit.id: event for event in events if isinstance(event, EditApplied)}
    assert set(applied) == {edit.id for edit in decided}
    assert {layer.experts for layer in applied[decided[-1].id].report.after.layers.values()} == {2}

    done = {(e.report.stage, e.report.n): e.report for e in events if isinstance(e, IntervalDone)}
    assert [(report.n, report.steps) for report in done.values()] == [
        (n, 128 * n) for _ in range(2) for n in range(1, 5)
    ]
    assert [report.metrics["lifetime_steps"] for report in done.values()] == [
        128 * number for number in range(1, 9)
    ]
    assert [report.revision for report in done.values()] == [0, 0, 0, 1, 3, 3, 3, 4]
    assert all(sum(report.tokens.values()) == 4 * 128 for report in done.values())
    last = next(e for e in events if isinstance(e, EvaluationDone) and e.index == 1)
    assert {
        len(gates) for layers in last.report.gate_weights.values() for gates in layers.values()
    } == {2}
