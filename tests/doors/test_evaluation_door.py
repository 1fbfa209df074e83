"""An evaluation from outside: which tasks each model is scored on, through a lane with kills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.evaluations import Evaluation
from tests.doors.routed_lane import both, routed_lane


class Landmarks(Evaluation):
    """Scores every model on its own task and on a few that stand for the rest."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Evaluation.Config):
        """Which tasks stand for the rest."""

        kind: str
        tasks: tuple[int, ...] = (0,)

    config: Config

    def chosen(self, index: int, ends: Sequence[int]) -> Sequence[int]:
        own = [place for place, end in enumerate(ends) if end == index]
        return [*own, *self.config.tasks]


def test_an_evaluation_decides_what_is_scored(tmp_path: Path) -> None:
    kind = "tests.doors.test_evaluation_door:Landmarks"
    stream = {"kind": "permuted", "dataset": "digits", "tasks": 3}
    lane = routed_lane("moe") | {"evaluation": {"kind": kind}, "stream": stream}
    whole = both(tmp_path, lane)
    known = [
        [place for place, score in enumerate(row) if score is not None] for row in whole.matrix
    ]
    assert known == [[0], [0, 1], [0, 1, 2]]
    assert {"acc.final", "learning_accuracy", "forgetting.first"} <= set(whole.lane["metrics"])
    assert whole.lane["metrics_from"]["fwt.nobaseline"] == [0, 2]
