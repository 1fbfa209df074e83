"""Commands whose place or partner fails them end with one message, before time is spent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.cluster.jobs import follow
from orchestrator.report.traces import check_writable
from workers.contract import InputError, RunError


@pytest.mark.parametrize("place", ["", "file/trace.png"])
def test_a_figure_that_could_not_be_written_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--out"):
        check_writable(tmp_path / place)


def test_a_figure_s_place_is_left_as_it_was(tmp_path: Path) -> None:
    there = tmp_path / "there.png"
    there.write_bytes(b"figure")
    check_writable(there)
    check_writable(tmp_path / "new" / "figure.png")
    assert there.read_bytes() == b"figure"
    assert list((tmp_path / "new").iterdir()) == []


class Gone:
    """Job client of a head that is gone."""

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        yield "stage 0\n"
        raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_status(self, job_id: str) -> str:
        raise ConnectionError("refused")


def test_a_job_whose_head_is_gone_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match=r"refused.*ray job logs -f job-1"):
        follow(Gone(), "job-1")
    said = capsys.readouterr()
    assert said.out == "stage 0\n"
    assert "the log broke off" in said.err
