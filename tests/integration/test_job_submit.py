"""`ray job submit` of the repository against a real local head: log streamed, SUCCEEDED."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.heads import Head, running_head

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with running_head() as found:
        yield found


@pytest.mark.craftax
def test_quickstart_as_a_job(head: Head, tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "job"
    python = ["python", "-m", "orchestrator", "run", "configs/quickstart.toml"]
    output = head.submit(*python, "--run-dir", run_dir)
    assert "digits-s0: grown to 2 experts" in output, "the log is streamed"
    assert "craftax-s0: grown to 2 experts" in output
    assert "run done" in output


def test_users_own_stream_as_a_job(head: Head, tmp_path: Path) -> None:
    """The documented example, from a folder outside the repository."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for path in (ROOT / "docs" / "examples").iterdir():
        shutil.copy(path, folder)
    for package in ("orchestrator", "workers", "ops"):
        shutil.copytree(ROOT / package, folder / package)
    python = ["python", "-m", "orchestrator", "run", "my_stream.toml"]
    output = head.submit(*python, "--run-dir", tmp_path / "runs" / "mine", cwd=folder)
    assert "run done" in output
