"""`growstage submit`: logs streamed, stopped by Ray with the state saved, resubmitted to its end.

The head asks for a token, as `ray start` does by default.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.events import CheckpointSaved, RunFinished, RunInterrupted, RunResumed
from orchestrator.journal import read
from tests.conftest import ROOT
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
epochs = 200
intervals = 6
[growth]
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
        skip = shutil.ignore_patterns("__pycache__", "csrc")
        shutil.copytree(ROOT / package, folder / package, ignore=skip)
    (folder / "submitted.toml").write_text(CONFIG)
    return folder


class Submitted:
    """A `growstage submit --wait` under way, and what it has printed so far."""

    def __init__(self, head: Head, project: Path, *args: object) -> None:
        command = [sys.executable, "-m", "orchestrator", "submit", "submitted.toml", "--wait"]
        self.process = subprocess.Popen(
            [*command, "--address", head.address, *(str(arg) for arg in args)],
            cwd=project,
            env={**head.env, "PYTHONPATH": str(project)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.text = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.text += line

    def wait_for(self, words: str, seconds: float = 180.0) -> None:
        deadline = time.monotonic() + seconds
        while words not in self.text:
            assert self.process.poll() is None, self.text
            assert time.monotonic() < deadline, self.text
            time.sleep(0.05)

    def end(self, seconds: float = 240.0) -> int:
        code = self.process.wait(seconds)
        self._reader.join(10)
        return code

    @property
    def job(self) -> str:
        found = re.search(r"raysubmit_\w+", self.text)
        assert found is not None, self.text
        return found.group()


def stop(head: Head, job: str) -> None:
    """What `ray job stop` asks the head, without the seconds that command takes to start."""
    token = Path(head.env["RAY_AUTH_TOKEN_PATH"]).read_text()
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{head.address}/api/jobs/{job}/stop"
    with urllib.request.urlopen(urllib.request.Request(url, b"", headers), timeout=30) as answer:
        assert answer.status == 200


def test_submit_follow_stop_and_submit_again(head: Head, project: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "job"
    first = Submitted(head, project, "--run-dir", run_dir)
    first.wait_for("grown to 2 experts")
    assert f"ray job submit --address {head.address} --working-dir . -- python" in first.text
    stop(head, first.job)
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
        command = [sys.executable, "-m", "orchestrator", "submit", *(str(arg) for arg in args)]
        done = subprocess.run(
            command,
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(project), **env},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

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
