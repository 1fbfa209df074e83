"""Models of a run are found by lane and stage, and what is not there is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.report import checkpoints
from tests.journals import story, write
from workers.contract import InputError


def test_a_run_without_a_finished_stage_says_where_it_stands(tmp_path: Path) -> None:
    write(tmp_path, story()[:6])
    with pytest.raises(InputError, match=r"no stage of this run is finished \(it is running\)"):
        checkpoints.find(tmp_path, None, None)
