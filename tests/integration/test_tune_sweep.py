"""A sweep over whole streams: stopped early, shared, killed with -9, resumed, shown in MLflow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.file import load
from orchestrator.core.events import CheckpointSaved
from orchestrator.core.journal import JOURNAL_FILE, read
from tests.commands import ROOT, Command
from tests.streams import split_digits

pytestmark = pytest.mark.ray

BASE = split_digits("swept")


def journals(folder: Path) -> list[Path]:
    return sorted((folder / "trials").glob(f"*/*/{JOURNAL_FILE}"))


def finished_stages(folder: Path) -> set[tuple[str, int]]:
    """(journal, stage) of every stage that is complete."""
    return {
        (str(path), record.event.index)
        for path in journals(folder)
        for record, _ in read(path)
        if isinstance(record.event, CheckpointSaved)
        and record.event.final
        and record.event.index >= 0
    }


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.toml"
    path.write_text(BASE)
    return path


def test_help_is_fast() -> None:
    """Under a second of processor time: nothing heavy is imported, however busy the machine is."""
    before = os.times()
    command = [sys.executable, "-m", "tune_spaces", "--help"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    after = os.times()
    spent = after.children_user + after.children_system
    assert spent - before.children_user - before.children_system < 1.0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("river",), "growth"),
        (("growth", "--base", "configs/random_labels.toml"), "--lane"),
        (("growth", "--objective", "luck"), "acc.final"),
        (("growth", "--base", "none.toml"), "cannot be read"),
        (("--resume", "/nowhere"), "folder of a sweep"),
        (("growth", "--sweep-dir", "s3://bucket/x"), "no URI"),
    ],
)
def test_wrong_input(args: tuple[str, ...], words: str) -> None:
    sweep = Command("tune_spaces", *args)
    assert sweep.wait(120) == 2, sweep.out + sweep.err
    assert words in sweep.out + sweep.err
    assert "Traceback" not in sweep.err


@pytest.mark.slow
def test_asha_killed_and_resumed(base: Path, cluster: str, runs: Path) -> None:
    folder = runs / "sweep"
    env = {"RAY_ADDRESS": cluster}
    options = ("growth", "--base", base, "--num-samples", 4, "--sweep-dir", folder)
    sweep = Command("tune_spaces", *options, env=env)
    sweep.until(lambda: len(finished_stages(folder)) >= 4)
    sweep.kill()
    before = finished_stages(folder)
    known = mlflow_runs(folder)

    told = Command("tune_spaces", "--resume", folder, "--json", env=env).json(400)
    assert told["status"] == "done"
    stages = told["stages"]
    assert stages["planned"] == 20
    assert stages["saved_by_shared_prefixes"] > 0
    learnt = stages["trained"] + stages["saved_by_shared_prefixes"]
    assert learnt == len(finished_stages(folder))
    assert sum(trial["stages"] for trial in told["trials"]) <= learnt  # the rest: not evaluated
    assert len({trial["trial"] for trial in told["trials"]}) == 4
    assert before <= finished_stages(folder)
    for path in journals(folder):
        records = [record for record, _ in read(path)]
        decided = Counter(edit.id for record in records for edit in record.edits)
        assert set(decided.values()) <= {1}, "an edit was decided twice"
        saved = Counter(
            r.event.index for r in records if isinstance(r.event, CheckpointSaved) and r.event.final
        )
        assert set(saved.values()) == {1}, "a stage was learnt twice"

    best = load(folder / "best.toml")
    assert best.lanes[0].policies["growth"].kind == "periodic"
    assert (folder / "parallel_coordinates.png").read_bytes()[:4] == b"\x89PNG"
    runs = mlflow_runs(folder)
    assert known.items() <= runs.items(), "a resumed sweep goes on with its runs"
    check_tree(folder, told)


@pytest.mark.slow
def test_an_interrupted_sweep_says_so_and_goes_on(cluster: str, runs: Path) -> None:
    folder, env = runs / "sweep", {"RAY_ADDRESS": cluster}
    base = runs.parent / "base.toml"
    base.write_text(split_digits("interrupted", epochs=60))
    options = ("--num-samples", 1, "--scheduler", "none", "--sweep-dir", folder)
    sweep = Command("tune_spaces", "growth", "--base", base, *options, "--json", env=env)
    sweep.until(lambda: finished_stages(folder))
    sweep.signal(signal.SIGINT)
    assert sweep.wait(60) == 130, sweep.out + sweep.err
    assert json.loads(sweep.out.strip().splitlines()[-1])["status"] == "interrupted"
    assert f"--resume {folder}" in sweep.err
    assert "Traceback" not in sweep.err
    status = {run.data.tags["level"]: run.info.status for run in all_runs(folder)}
    assert status["sweep"] == "KILLED"
    before = finished_stages(folder)
    assert 0 < len(before) < 5

    told = Command("tune_spaces", "--resume", folder, "--json", env=env).json(120)
    assert told["status"] == "done"
    assert before < finished_stages(folder)
    assert len(finished_stages(folder)) == 5


def mlflow_runs(folder: Path) -> dict[str, str]:
    """Key -> id of every run; a duplicate fails."""
    found = [(run.data.tags["growstage.key"], run.info.run_id) for run in all_runs(folder)]
    assert len({key for key, _ in found}) == len(found), "a run was created twice"
    return dict(found)


def all_runs(folder: Path) -> list[Any]:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, max_results=1000))


def check_tree(folder: Path, told: Any) -> None:
    """Sweep -> trial -> stage, each under its parent, with the objective on the trials."""
    runs = {run.info.run_id: run for run in all_runs(folder)}
    levels = Counter(run.data.tags["level"] for run in runs.values())
    assert levels["sweep"] == 1
    assert levels["trial"] == len(told["trials"])
    above = {"trial": "sweep", "stage": "trial"}
    for run in runs.values():
        level = run.data.tags["level"]
        if level in above:
            parent = runs[run.data.tags["mlflow.parentRunId"]]
            assert parent.data.tags["level"] == above[level]
        assert run.info.status != "RUNNING", run.data.tags["growstage.key"]
    trials = [run for run in runs.values() if run.data.tags["level"] == "trial"]
    objectives = {run.data.tags["growstage.key"]: run.data.metrics["objective"] for run in trials}
    for trial in told["trials"]:
        assert objectives[trial["run"]] == pytest.approx(trial["objective"])
    assert {"policies.growth.add", "policies.growth.every", "method"} <= set(trials[0].data.params)
