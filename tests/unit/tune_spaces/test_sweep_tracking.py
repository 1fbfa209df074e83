"""What the sweep's tracker writes of its trials where the store now and then refuses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.tracking.background import TrackingAway
from orchestrator.tracking.tracker import Tracker
from orchestrator.tracking.writes import LogPoints, Write
from tests.journals import TASKS, story, write
from tests.streams import OPTIONS
from tune_spaces.sweep import make_plan
from tune_spaces.tracking import SweepTracker


class Store:
    """A store that refuses the first ``refusals`` writes of a trial's objective."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.steps: list[int] = []

    def project(self, go_on: object = None) -> int:
        return 0

    def publish(self, writes: Iterable[Write], shown: Mapping[str, Any]) -> None:
        if self.refusals:
            self.refusals -= 1
            raise TrackingAway("refused")
        for item in writes:
            assert isinstance(item, LogPoints)
            self.steps += [point.step for point in item.points]


def test_an_objective_that_was_refused_is_written_later_and_once(tmp_path: Path) -> None:
    plan = make_plan("growth", None, None, **OPTIONS)
    attempt = tmp_path / "trials" / "t" / "0"
    records = story(lanes=(("replay", 0),))
    write(attempt, records)
    sweep, store = SweepTracker(plan, tmp_path, None), Store(refusals=1)
    sweep._trials[attempt] = cast(Tracker, store)
    with pytest.raises(TrackingAway):
        sweep.project()
    for _ in range(2):
        sweep.project()
    assert store.steps == list(range(1, len(TASKS) + 1))
