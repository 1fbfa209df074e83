"""A Craftax lane begun natively, killed, resumed on Craftax's own programs: the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from orchestrator.core.events import CheckpointSaved, EvaluationDone, IntervalDone, StageStarted
from tests.commands import Command
from tests.watched import Watched
from workers.rl.environments.craftax.native import library

pytestmark = [
    pytest.mark.ray,
    pytest.mark.craftax,
    pytest.mark.skipif(library.load().functions is None, reason=library.load().why),
]

CONFIG = """
name = "switched"
checkpoint_every = 1
[stream]
kind = "craftax"
engine = "native"
tasks = [
    { name = "survive" },
    { name = "gather", achievements = ["collect_wood"], params = { max_timesteps = 40 } },
]
[model]
kind = "actor_critic"
encoder = 16
hidden = [16]
[training]
kind = "ppo"
num_envs = 8
rollout = 16
steps_per_stage = 384
intervals = 3
minibatches = 4
eval_max_steps = 20
[[lanes]]
resources = { cpus = 0.5 }
"""


def essence(watched: Watched) -> Any:
    """All that must not depend on what was killed, nor on the engine."""
    events = [record.event for record in watched.read()]
    intervals = {
        (event.report.stage, event.report.n): (event.report.steps, event.report.metrics)
        for event in events
        if isinstance(event, IntervalDone)
    }
    models = {
        event.index: event.checkpoint.digest
        for event in events
        if isinstance(event, CheckpointSaved) and event.final
    }
    rows = {
        event.index: event.report.scores for event in events if isinstance(event, EvaluationDone)
    }
    return intervals, models, rows


@pytest.mark.slow
def test_the_engine_is_changed_where_a_run_is_resumed(cluster: str, runs: Path) -> None:
    config, env = runs / "switched.toml", {"RAY_ADDRESS": cluster}
    config.write_text(CONFIG)
    whole, cut = runs / "whole", runs / "cut"
    Command("orchestrator", "run", config, "--run-dir", whole, env=env).succeed()
    driver = Command("orchestrator", "run", config, "--run-dir", cut, env=env)
    watched = Watched(cut)
    driver.until(lambda: any(isinstance(r.event, IntervalDone) for r in watched.read()))
    driver.kill()
    resume = ("orchestrator", "resume", cut, "--set")
    refused = Command(*resume, "training.lr=1.0", env=env)
    assert refused.wait() == 2
    assert "it may change: stream.engine" in refused.err
    Command(*resume, "stream.engine=jax", env=env).succeed(seconds=600)

    assert essence(watched) == essence(Watched(whole))
    started = [r.event for r in watched.read() if isinstance(r.event, StageStarted)]
    engines = [(event.stage.index, event.report.fields["engine"]) for event in started]
    assert engines[0] == (0, "native")
    assert engines[-1] == (1, "jax")
    client = MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'switched'")
    found = client.search_runs(
        [experiment.experiment_id], "tags.`changed.stream.engine` = 'jax'", max_results=10
    )
    assert {"run", "lane", "stage"} == {run.data.tags["level"] for run in found}
