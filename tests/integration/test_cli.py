"""The command line as people and tools use it: contracts, exit codes, one clear error each."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.conftest import Finished

Call = Callable[..., Finished]

TINY = """
name = "tiny"
[stream]
kind = "split"
dataset = "digits"
classes_per_task = 5
[model]
head = { kind = "moe", hidden = [16] }
[training]
epochs = 2
intervals = 2
[policies.growth]
kind = "periodic"
[[lanes]]
method = "finetune"
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def test_help_is_fast() -> None:
    """In CPU-seconds, which other tests beside this one do not lengthen."""
    times = []
    for _ in range(3):
        began = cpu_seconds_of_children()
        command = [sys.executable, "-m", "orchestrator", "--help"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        times.append(cpu_seconds_of_children() - began)
    assert min(times) < 1.0


def cpu_seconds_of_children() -> float:
    """Of those that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_run_says_at_once_what_it_does(tiny: Path, tmp_path: Path) -> None:
    """The first line comes before anything heavy is imported."""
    command = [sys.executable, "-m", "orchestrator", "run", tiny, "--run-dir", tmp_path / "r"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        process.kill()
    assert first == f"growstage: reading {tiny} ...\n"


def test_plan_as_json(growstage: Call, tiny: Path) -> None:
    done = growstage("plan", tiny, "--json", "--set", "lanes.0.seeds=[0, 1]")
    assert done.code == 0, done.err
    lanes = done.json["lanes"]
    assert [lane["lane"] for lane in lanes] == ["finetune-s0", "finetune-s1"]
    stages = lanes[0]["stages"]
    assert [stage["experts"] for stage in stages] == [1, 2]
    assert stages[1]["waits_for"] == stages[0]["id"]
    assert 0 < stages[0]["parameters"] < stages[1]["parameters"]


def test_plan_and_list_for_people(growstage: Call, tiny: Path) -> None:
    assert "classes" in growstage("plan", tiny).out
    listed = growstage("list", "--json").json
    assert {"streams", "datasets", "environments", "methods", "policies", "edits", "heads"} <= set(
        listed
    )
    assert {"growth", "masks", "schedule", "ppo"} <= set(listed["spaces"])
    assert all(text for table in listed.values() for text in table.values())
    assert growstage("list", "nonsense").code == 2


def test_data_list(growstage: Call) -> None:
    names = [row["name"] for row in growstage("data", "list", "--json").json]
    assert {"digits", "mnist", "fashion_mnist"} <= set(names)


WRONG = {
    "unknown key": ("training.epoch=3", "training.epoch", "unknown key"),
    "wrong type": ("training.batch=many", "training.batch", "'many'"),
    "unknown name": ("lanes.0.method=oblivion", "lanes.0.method.kind", "finetune"),
    "unknown data set": ("stream.dataset=cifar", "stream.dataset.kind", "fashion_mnist"),
    "bad value": ("training.warmup=3", "training", "warmup"),
    "unknown initialiser": (
        "policies.growth.initialiser=magic",
        "policies.growth.initialiser",
        "clone_split",
    ),
    "too many experts": ("model.max_experts=1", "policies", "max_experts"),
    "no such lane": ("lanes.7.method=joint", "--set", "lanes.7.method"),
    "negative": ("checkpoint_every=-1", "checkpoint_every", "-1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_config_is_refused(growstage: Call, tiny: Path, case: str) -> None:
    setting, *words = WRONG[case]
    done = growstage("plan", tiny, "--set", setting)
    assert done.code == 2
    for word in words:
        assert word in done.err
    assert "Traceback" not in done.err


def test_all_mistakes_at_once(growstage: Call, tiny: Path) -> None:
    settings = ("training.epoch=3", "lanes.0.method=oblivion", "stream.kind=river")
    done = growstage("plan", tiny, *(part for item in settings for part in ("--set", item)))
    assert done.code == 2
    for place in ("training.epoch", "lanes.0.method.kind", "stream.kind"):
        assert place in done.err


def test_unreadable_files(growstage: Call, tmp_path: Path) -> None:
    assert growstage("plan", tmp_path / "none.toml").code == 2
    broken = tmp_path / "broken.toml"
    broken.write_text("name = [")
    done = growstage("plan", broken)
    assert done.code == 2
    assert "not valid TOML" in done.err
    assert growstage("show", tmp_path).code == 2
    assert growstage("resume", tmp_path).code == 2


def test_missing_data_file(growstage: Call, tiny: Path, tmp_path: Path) -> None:
    done = growstage(
        "plan", tiny, "--set", 'stream.dataset={kind="image_folder", path="/nowhere/at/all"}'
    )
    assert done.code == 2
    assert "/nowhere/at/all" in done.err


@pytest.mark.ray
def test_impossible_resources(growstage: Call, cluster: str, tiny: Path, tmp_path: Path) -> None:
    done = growstage(
        "run", tiny, "--run-dir", tmp_path / "r", "--set", "resources.gpus=64", RAY_ADDRESS=cluster
    )
    assert done.code == 2
    assert "can never be placed" in done.err


def test_unwritable_run_folder(growstage: Call, tiny: Path) -> None:
    done = growstage("run", tiny, "--run-dir", "/proc/growstage")
    assert done.code == 2
    assert "--run-dir" in done.err


def test_a_job_whose_run_would_be_lost_is_refused(growstage: Call, tiny: Path) -> None:
    """Ray tells a job's driver what it was submitted with."""
    job = {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}
    done = growstage("run", tiny, **job)
    assert done.code == 2
    assert "--run-dir is missing" in done.err
    relative = growstage("run", tiny, "--run-dir", "runs/one", **job)
    assert relative.code == 2
    assert "would lie in the job's own copy" in relative.err


def test_tracking_server_away(growstage: Call, tiny: Path, tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    done = growstage(
        "run", tiny, "--run-dir", tmp_path / "r", "--tracking-uri", f"http://127.0.0.1:{port}",
        timeout=90,
    )  # fmt: skip
    assert done.code == 2
    assert str(port) in done.err


def test_cluster_away(growstage: Call, tiny: Path, tmp_path: Path) -> None:
    done = growstage(
        "run", tiny, "--run-dir", tmp_path / "r", "--address", "127.0.0.1:1",
        timeout=120,
    )  # fmt: skip
    assert done.code == 2
    assert "127.0.0.1:1" in done.err


AGAIN = """
import sys, tomllib
import growstage
with open(sys.argv[1], "rb") as file:
    config = tomllib.load(file)
run = growstage.run(config, sys.argv[2], quiet=True)
print(run.state, *run.metrics.index, len(run.matrix))
"""
"""A run from Python with a dictionary: one that is done is only looked at."""


def check_folder(run_dir: Path, config: Path) -> None:
    """What a run leaves in its folder for people."""
    assert (run_dir / "stream.toml").read_text() == config.read_text()
    names = {path.name for path in (run_dir / "figures").iterdir()}
    assert {"methods.png", "finetune-s0.accuracy_matrix.png"} <= names
    assert (run_dir / "results.csv").read_text().startswith("run,lane,variant,settings,")
    assert (run_dir / "results.parquet").stat().st_size > 1000
    page = (run_dir / "report.html").read_text()
    assert "grown to 2 experts" in page
    assert "classes_per_task = 5" in page


@pytest.mark.ray
def test_run_show_lineage_and_foreign_journals(
    growstage: Call, cluster: str, tiny: Path, tmp_path: Path
) -> None:
    """The run is as cold as a person's: nothing imported, no store, no Ray."""
    run_dir = tmp_path / "runs" / "one"
    command = [sys.executable, "-m", "orchestrator", "run", tiny, "--run-dir", run_dir, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["status"] == "done"
    lane = result["lanes"][0]
    assert (lane["lane"], lane["method"], lane["seed"]) == ("finetune-s0", "finetune", 0)
    assert len(lane["matrix"]) == len(lane["tasks"]) == 2
    assert len(lane["initial"]) == 2
    assert lane["stages"][1]["parent"] == lane["stages"][0]["id"]
    assert len(lane["stages"][1]["edits"]) == 1
    assert result["journal_offset_tracked"] == (run_dir / "journal.jsonl").stat().st_size
    assert growstage("show", run_dir, "--json").json == result
    assert "finetune-s0" in growstage("show", run_dir).out

    check_folder(run_dir, tiny)
    again = subprocess.run(
        [sys.executable, "-c", AGAIN, tiny, run_dir], cwd=ROOT, capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    assert again.stdout.split() == ["done", "finetune-s0", "3"]

    for choice, said in ((), "learns from whole samples"), (("--stage", 7), "there are: 0, 1"):
        refused = growstage("trace", run_dir, *choice)
        assert refused.code == 2
        assert said in refused.err

    uri = f"sqlite:///{run_dir.parent / 'mlflow.db'}"
    path = growstage("lineage", lane["stages"][1]["id"], "--tracking-uri", uri, "--json")
    assert path.code == 0, path.err
    text = json.dumps(path.json)
    for fact in (lane["stages"][0]["id"], result["config_digest"]):
        assert fact in text
    assert growstage("lineage", "no-such-model", "--tracking-uri", uri).code == 2

    other = growstage("run", tiny, "--run-dir", run_dir, "--set", "training.epochs=3")
    assert other.code == 2
    assert "another --run-dir" in other.err

    again = growstage("resume", run_dir)
    assert again.code == 0
    assert "nothing to go on with" in again.err
    assert f" run {run_dir}/stream.toml --run-dir " in again.err

    checkpoint = Path(lane["stages"][0]["checkpoint"]["uri"])
    lines = (run_dir / "journal.jsonl").read_bytes().splitlines(keepends=True)
    saved = [i for i, text in enumerate(lines) if b'"CheckpointSaved"' in text]
    (run_dir / "journal.jsonl").write_bytes(b"".join(lines[: saved[1] + 1]))
    model = checkpoint / "model.safetensors"
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(bytes(data))
    damaged = growstage("resume", run_dir, "--json", RAY_ADDRESS=cluster)
    assert damaged.code == 0, damaged.err
    assert "damaged or foreign" in (run_dir / "journal.jsonl").read_text()
    (mended,) = damaged.json["lanes"]
    assert mended["failures"] > 0
    assert mended["matrix"] == lane["matrix"]


def test_read_only_run_folder(growstage: Call, tiny: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere; test_unwritable_run_folder covers the message")
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    assert growstage("run", tiny, "--run-dir", folder / "run").code == 2
