"""A model made of two lanes' models on Ray, its driver killed as the lane opens: bits, lineage."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.events import CheckpointSaved, Event, RunResumed
from orchestrator.core.journal import JOURNAL_FILE, read
from orchestrator.tracking.lineage import matrix
from orchestrator.tracking.tracker import default_uri
from tests.commands import Command
from tests.doors.lane import outcomes, run_lanes

pytestmark = pytest.mark.ray

CONFIG = """
name = "merged"
checkpoint_every = 1
[stream]
kind = "domains"
base = []
domains = [{ name = "turned", rotate = 90.0 }, { name = "negative", invert = true }]
train_samples = 96
test_samples = 40
[model]
head = { kind = "mlp", hidden = [12, 8] }
[training]
steps = 4
intervals = 2
batch = 16
[[lanes]]
name = "one"
stream = { domains = [{ name = "turned", rotate = 90.0 }] }
[[lanes]]
name = "two"
stream = { domains = [{ name = "negative", invert = true }] }
[[lanes]]
name = "mixed"
merge = { kind = "branch_train_mix", parents = ["one-s{seed}", "two-s{seed}"] }
[lanes.model]
experts = 2
[lanes.model.head]
kind = "moe"
hidden = [8]
[lanes.model.head.layer]
kind = "moe"
selector = { kind = "topk", k = 2 }
expert = { kind = "bottleneck", width = 12 }
"""
PARENTS = ("one-s0", "two-s0")


def trained(run_dir: Path, lane: str) -> list[Event]:
    """Its checkpoints that ended a stage, of the untrained or merged model left out."""
    journal = run_dir / JOURNAL_FILE
    events = [record.event for record, _ in read(journal)] if journal.exists() else []
    return [
        event
        for event in events
        if isinstance(event, CheckpointSaved)
        and (event.lane, event.final) == (lane, True)
        and event.index >= 0
    ]


@pytest.mark.slow
def test_a_driver_killed_as_the_merged_lane_opens_changes_no_bit_and_no_parent(
    cluster: str, runs: Path, tmp_path: Path, growstage: Callable[..., Any]
) -> None:
    from mlflow import MlflowClient

    config, run_dir = tmp_path / "merged.toml", runs / "killed"
    config.write_text(CONFIG)
    env = {"RAY_ADDRESS": cluster}
    driver = Command("orchestrator", "run", config, "--run-dir", run_dir, env=env)
    driver.until(lambda: all(trained(run_dir, parent) for parent in PARENTS))
    driver.kill()
    assert not trained(run_dir, "mixed-s0"), "killed too late: it was merged and trained by then"
    assert growstage("resume", run_dir, **env).code == 0

    whole, found = run_lanes(tmp_path / "whole", tomllib.loads(CONFIG)), outcomes(run_dir)
    assert any(isinstance(r.event, RunResumed) for r in found["mixed-s0"].records)
    assert {name: one.essence for name, one in found.items()} == {
        name: one.essence for name, one in whole.items()
    }

    store = default_uri(run_dir)
    asked = ("lineage", "mixed-s0-stage00", "--tracking-uri", store)
    chain = growstage(*asked, "--json").json
    assert [step["model"]["name"] for step in chain] == [
        "mixed-s0-stage00",
        "mixed-s0-merged",
        "one-s0-stage00",
        "one-s0-untrained",
        "two-s0-stage00",
        "two-s0-untrained",
    ]
    merged, ids = chain[1], {step["model"]["name"]: step["model"]["id"] for step in chain}
    parents = [ids[f"{name}-stage00"] for name in PARENTS]
    assert merged["parents"] == parents
    assert merged["model"]["merged_by"] == "branch_train_mix"
    for parent, step in zip(PARENTS, (chain[2], chain[4]), strict=True):
        assert step["model"]["digest"] == found[parent].lane["stages"][0]["checkpoint"]["digest"]
    told = " ".join(growstage(*asked).out.split())
    assert f"made by branch_train_mix of {', '.join(parents)}" in told
    assert all(f"{parent}-stage00" in told for parent in PARENTS)

    client = MlflowClient(store)
    experiments = [one.experiment_id for one in client.search_experiments()]
    made = client.get_logged_model(merged["model"]["id"])
    assert made.params["parent_model"] == ",".join(parents)
    assert len(client.search_logged_models(experiments)) == len(chain), "each model once"
    (lane,) = client.search_runs(experiments, "tags.level = 'lane' AND tags.lane = 'mixed-s0'")
    shown = matrix(client, lane.info.run_id)
    assert shown["initial"] == found["mixed-s0"].lane["initial"]
    assert shown["matrix"] == found["mixed-s0"].lane["matrix"]
