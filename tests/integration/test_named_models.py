"""Merges whose parents are named as MLflow knows them: logged models, versions of a registry."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from orchestrator.commands.files import plan
from orchestrator.core.journal import JOURNAL_FILE
from orchestrator.session import load
from orchestrator.tracking.tracker import Tracker, default_uri
from tests.doors.lane import run_lanes
from workers.contract import InputError, Json

SPECIALISTS: Json = {
    "stream": {"kind": "split", "dataset": "digits", "train_samples": 48, "test_samples": 20},
    "model": {"head": {"kind": "mlp", "hidden": [12, 8]}},
    "training": {"steps": 2, "intervals": 1, "batch": 16},
    "lanes": [{"name": "one"}, {"name": "two", "method": "replay"}],
}
FILE = """
name = "pool"
[stream]
kind = "split"
dataset = "digits"
[model]
experts = 2
[model.head]
kind = "moe"
hidden = [8]
layer = {{ kind = "moe", expert = {{ kind = "bottleneck", width = 12 }} }}
[[lanes]]
name = "mixed"
merge = {{ kind = "branch_train_mix", parents = [{first}, {second}] }}
"""
VERSION = '{ model = "models:/specialist/1" }'


@pytest.fixture(scope="module")
def donor(make_runs: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two specialists, the second one's last model registered."""
    run = make_runs(tmp_path_factory.mktemp("named")) / "donor"
    run_lanes(run, SPECIALISTS)
    Tracker(run, None).project()
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(default_uri(run))  # where a registry looks for the model of a version
    client = MlflowClient()
    client.create_registered_model("specialist")
    client.create_model_version(
        "specialist",
        f"models:/{logged(run, 'two-s0-stage01')}",
        model_id=logged(run, "two-s0-stage01"),
    )
    client.set_registered_model_alias("specialist", "best", "1")
    client.create_model_version("specialist", "/elsewhere")
    mlflow.set_tracking_uri(before)
    return run


def logged(run: Path, name: str) -> str:
    client = MlflowClient(default_uri(run))
    experiments = [one.experiment_id for one in client.search_experiments()]
    (model,) = client.search_logged_models(experiments, filter_string=f"name = '{name}'")
    return str(model.model_id)


def loaded(folder: Path, run: Path, first: str, second: str) -> Any:
    path = folder / "pool.toml"
    path.write_text(FILE.format(first=first, second=second))
    return load(path, (), default_uri(run))


def of_run(run: Path, lane: str, stage: int) -> str:
    return f'{{ run = "{run}", lane = "{lane}", stage = {stage} }}'


def test_models_stand_for_the_run_lane_and_stage_that_made_them(
    donor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = loaded(tmp_path, donor, of_run(donor, "one-s0", 0), of_run(donor, "two-s0", 1))
    by_id = f'{{ model = "{logged(donor, "one-s0-stage00")}" }}'
    for first in ('{ model = "one-s0-stage00" }', by_id):
        for second in (VERSION, '{ model = "models:/specialist@best" }'):
            found = loaded(tmp_path, donor, first, second)
            assert found == told
            assert found.digest == told.digest
    untrained = loaded(tmp_path, donor, '{ model = "one-s0-untrained" }', VERSION)
    assert untrained == loaded(tmp_path, donor, of_run(donor, "one-s0", -1), VERSION)
    plan(tmp_path / "pool.toml", tracking_uri=default_uri(donor), as_json=True)
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert f"{donor} two-s0 stage 1" in list(shown["lanes"][0]["merged"])


REFUSED = {
    '{ model = "nobody" }': "'nobody' names 0 models",
    '{ model = "models:/specialist/9" }': "give models:/NAME/VERSION or models:/NAME@ALIAS",
    '{ model = "models:/specialist/2" }': "registered without a logged model",
    '{ model = "one-s{seed}-stage00" }': "give a lane for each seed",
    '{ model = "one-s0-stage00", stage = 1 }': "a parent has model alone",
}


@pytest.mark.parametrize("parent", REFUSED)
def test_what_the_store_does_not_know_is_refused_at_its_place(
    donor: Path, tmp_path: Path, parent: str
) -> None:
    with pytest.raises(InputError, match=r"lanes\.0\.merge\.parents\.0") as caught:
        loaded(tmp_path, donor, parent, VERSION)
    assert REFUSED[parent] in str(caught.value)


def test_a_folder_that_another_run_has_taken_is_no_parent(donor: Path, tmp_path: Path) -> None:
    other, kept = tmp_path / "other", tmp_path / "kept.jsonl"
    run_lanes(other, {**SPECIALISTS, "seed": 5, "lanes": [{"name": "two", "seeds": [0]}]})
    journal = donor / JOURNAL_FILE
    shutil.copy(journal, kept)
    shutil.copy(other / JOURNAL_FILE, journal)
    try:
        with pytest.raises(InputError, match="another run's by now"):
            loaded(tmp_path, donor, VERSION, VERSION)
    finally:
        shutil.copy(kept, journal)


def test_a_file_that_names_no_model_asks_no_store(donor: Path, tmp_path: Path) -> None:
    path = tmp_path / "pool.toml"
    named = [of_run(donor, lane, 0) for lane in ("one-s0", "two-s0")]
    path.write_text(FILE.format(first=named[0], second=named[1]))
    assert load(path, (), "http://127.0.0.1:9").lanes[0].merged is not None
