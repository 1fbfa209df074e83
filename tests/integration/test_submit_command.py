"""`growstage submit`: logs streamed, stopped by Ray with the state saved, resubmitted to its end.

The head asks for a token, as `ray start` does by default.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.core.events import CheckpointSaved, RunFinished, RunInterrupted, RunResumed
from orchestrator.core.journal import read
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
def head() -> Iterator[Head]:
    with running_head() as found:
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


@pytest.mark.craftax
def test_quickstart_by_rays_own_command(head: Head, tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "job"
    python = ["python", "-m", "orchestrator", "run", "configs/quickstart.toml"]
    output = head.submit(*python, "--run-dir", run_dir)
    assert "digits-s0: grown to 2 experts" in output, "the log is streamed"
    assert "craftax-s0: grown to 2 experts" in output
    assert "run done" in output


def test_users_own_stream_as_a_job(head: Head, project: Path, tmp_path: Path) -> None:
    """The documented example, from a folder outside the repository."""
    for path in (ROOT / "docs" / "examples").iterdir():
        shutil.copy(path, project)
    run_dir = tmp_path / "runs" / "mine"
    job = Submitted(head, project, "--run-dir", run_dir, config="my_stream.toml")
    assert job.end() == 0, job.text
    assert "run done" in job.text


def test_submit_follow_stop_and_submit_again(head: Head, project: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "job"
    first = Submitted(head, project, "--run-dir", run_dir)
    first.command.until(lambda: "grown to 2 experts" in first.text)
    assert f"ray job submit --address {head.address} --working-dir . -- python" in first.text
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
