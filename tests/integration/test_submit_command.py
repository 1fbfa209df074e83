"""`growstage submit`: logs streamed, stopped by Ray with the state saved, resubmitted to its end.

As a new user comes to it: an empty home, a first local run, then `ray start --head`, which asks for
the token that the run left.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from orchestrator.beginning import code_version
from orchestrator.core.events import CheckpointSaved, RunFinished, RunInterrupted, RunResumed
from orchestrator.core.journal import first_record, read
from tests.commands import ROOT, Command
from tests.heads import Head, running_head

pytestmark = pytest.mark.ray

CONFIG = """
name = "submitted"
checkpoint_every = 2
[stream]
kind = "split"
dataset = "digits"
[model]
head = { kind = "moe", hidden = [32] }
[training]
epochs = 60
intervals = 6
[policies.growth]
kind = "periodic"
[[lanes]]
method = { kind = "replay", buffer = 100 }
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """Its first local run is killed once Ray has written its token."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "first.toml").write_text(CONFIG)

    def first_run(env: Mapping[str, str]) -> None:
        words = ("run", "first.toml", "--run-dir", folder / "runs" / "first")
        run = Command("orchestrator", *words, cwd=folder, env=env)
        token = Path(env["HOME"]) / ".ray" / "auth_token"
        run.until(lambda: token.exists() and token.stat().st_size > 0)  # made first, then written
        run.kill()

    with running_head(first_run) as found:
        yield found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder: the packages and a stream file."""
    folder = tmp_path / "project"
    folder.mkdir()
    for package in ("orchestrator", "workers", "ops"):
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, folder / package, ignore=skip)
    (folder / "submitted.toml").write_text(CONFIG)
    return folder


class Submitted:
    """A `growstage submit --wait` under way."""

    def __init__(self, head: Head, project: Path, *args: object, config: str = "submitted.toml"):
        words = ("submit", config, "--wait", "--address", head.address, *args)
        self.command = Command("orchestrator", *words, cwd=project, env=head.env)

    @property
    def text(self) -> str:
        """What was printed so far."""
        return self.command.err + self.command.out

    def end(self, seconds: float = 240.0) -> int:
        return self.command.wait(seconds)

    @property
    def job(self) -> str:
        found = re.search(r"raysubmit_\w+", self.text)
        assert found is not None, self.text
        return found.group()


def test_rays_own_command(head: Head, project: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "job"
    python = ["python", "-m", "orchestrator", "run", "submitted.toml", "--set", "training.epochs=6"]
    output = head.submit(*python, "--run-dir", run_dir, cwd=project)
    assert "grown to 2 experts" in output, "the log is streamed"
    assert "run done" in output


@pytest.mark.slow
def test_users_own_stream_as_a_job(head: Head, project: Path, tmp_path: Path) -> None:
    """The example, from a folder outside the repository; its module is a package in another one on
    the path and travels along, and the journal says which code it was."""
    library, example = tmp_path / "library", ROOT / "examples" / "own_stream"
    (library / "my_stream").mkdir(parents=True)
    shutil.copy(example / "my_stream.py", library / "my_stream" / "__init__.py")
    shutil.copy(example / "stream.toml", project)
    run_dir = tmp_path / "runs" / "mine"
    here = Head(head.address, {**head.env, "PYTHONPATH": f"{ROOT}{os.pathsep}{library}"})
    job = Submitted(here, project, "--run-dir", run_dir, config="stream.toml")
    assert job.end() == 0, job.text
    assert "run done" in job.text
    started = first_record(run_dir)
    assert started is not None
    assert started.code_version == code_version()
    digest = hashlib.sha256((example / "my_stream.py").read_bytes()).hexdigest()
    assert started.modules == {"my_stream": digest[:16]}


def test_submit_follow_stop_and_submit_again(head: Head, project: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "job"
    first = Submitted(head, project, "--run-dir", run_dir)
    first.command.until(lambda: "grown to 2 experts" in first.text)
    plain = f"RAY_AUTH_MODE=token ray job submit --address {head.address} --working-dir ."
    assert plain in first.text
    head.stop(first.job)
    assert first.end() == 130, first.text
    assert "STOPPED" in first.text
    events = [record.event for record, _ in read(run_dir / "journal.jsonl")]
    assert isinstance(events[-1], RunInterrupted)
    assert events[-1].reason == "SIGTERM"

    again = Submitted(head, project, "--run-dir", run_dir)
    assert again.end() == 0, again.text
    assert again.job != first.job
    assert "run done" in again.text
    assert "SUCCEEDED" in again.text
    records = [record for record, _ in read(run_dir / "journal.jsonl")]
    events = [record.event for record in records]
    assert isinstance(events[-1], RunFinished)
    assert sum(isinstance(event, RunResumed) for event in events) == 1
    decided = Counter(edit.id for record in records for edit in record.edits)
    assert len(decided) == 4
    assert set(decided.values()) == {1}
    saved = Counter(e.index for e in events if isinstance(e, CheckpointSaved) and e.final)
    assert saved == dict.fromkeys(range(-1, 5), 1)


def test_a_driver_from_outside_joins(head: Head, project: Path, tmp_path: Path) -> None:
    """It sends the token that the head asks for, though nobody told Ray's client to."""
    assert "RAY_AUTH_MODE" not in head.env
    words = ("run", "submitted.toml", "--run-dir", tmp_path / "run", "--address", head.gcs)
    run = Command("orchestrator", *words, "--set", "training.epochs=6", cwd=project, env=head.env)
    assert run.wait(240) == 0, run.err
    assert "run done" in run.err + run.out


def test_what_cannot_be_submitted(head: Head, project: Path, tmp_path: Path) -> None:
    def refused(*args: object, **env: str) -> str:
        command = Command("orchestrator", "submit", *args, cwd=project, env=env)
        assert command.wait(120) == 2, command.err
        assert "Traceback" not in command.err
        return command.err

    config, place = "submitted.toml", ("--run-dir", tmp_path / "r")
    token = tmp_path / "token"
    token.write_text("0" * 64)
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    assert "RAY_AUTH_TOKEN_PATH" in refused(config, *place, "--address", head.address, **wrong)
    assert "was not taken" in refused(config, *place, "--address", "http://127.0.0.1:1")
    assert "--run-dir" in refused(config, "--address", "http://10.0.0.10:8265")
    assert "absolute" in refused(config, "--run-dir", "runs/x", "--address", head.address)
    outside = tmp_path / "outside.toml"
    outside.write_text(CONFIG)
    assert "lies outside" in refused(outside, *place, "--address", head.address)
