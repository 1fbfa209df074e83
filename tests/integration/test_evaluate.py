"""``growstage evaluate`` recorded in MLflow: a run below the stage that was read, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.__main__ import app
from tests.doors.lane import run_lane

RAW: dict[str, Any] = {
    "stream": {"kind": "split", "dataset": "digits", "classes_per_task": 10},
    "training": {"epochs": 1, "diagnostics": []},
    "model": {"experts": 2, "head": {"kind": "moe", "hidden": [24]}},
    "lanes": [{}],
}


def test_an_evaluation_is_a_run_below_its_stage(runs: Path) -> None:
    from orchestrator.tracking.store import default_uri, open_client

    folder = runs / "run"
    folder.mkdir()
    run_lane(folder, RAW)
    words = ["evaluate", str(folder), "--policy", "k_sweep", "--json"]
    for _ in range(2):  # the same evaluation is the same run
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    client = open_client(default_uri(folder))
    (experiment,) = [one for one in client.search_experiments() if one.name == "door"]
    found = client.search_runs([experiment.experiment_id])
    by_id = {run.info.run_id: run for run in found}
    (told,) = [run for run in found if run.info.run_name == "evaluate k_sweep"]
    parent = by_id[told.data.tags["mlflow.parentRunId"]]
    assert parent.info.run_name.startswith("00 ")
    assert told.info.status == "FINISHED"
    assert told.data.params["policy"] == "k_sweep"
    metrics = told.data.metrics
    assert metrics["mean/difference"] == pytest.approx(
        metrics["mean/scores"] - metrics["mean/plain"]
    )
    curve = client.get_metric_history(told.info.run_id, "validation")
    assert {point.step for point in curve} == {1, 2}
