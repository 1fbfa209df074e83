"""Points of the lanes' matrices: every cell, metric and comparison once, whenever its rows arrive.

Pure: knows no MLflow and no run ids. Rows come in any order, as models are scored beside training.
"""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.core.events import EvaluationDone
from orchestrator.report import scores
from orchestrator.report.history import RunHistory
from orchestrator.report.lane_history import LaneHistory
from orchestrator.report.row_by_row import RowByRow
from orchestrator.tracking.naming import point, task_keys
from orchestrator.tracking.points import of_routing
from orchestrator.tracking.writes import LogPoints, Write


class Matrices:
    """What was written of each lane's matrix, and what is to be written next."""

    def __init__(self, history: RunHistory, key: Callable[..., str]) -> None:
        """``history``: of the run, which goes on; ``key``: lane and stage -> the run that shows
        it."""
        self._history, self._key = history, key
        self._shown: set[tuple[str, int]] = set()
        """Rows (lane, stage) that were written."""
        self._summed: dict[str, RowByRow] = {}
        """Lane -> its complete rows whose metrics were written."""
        self._compared: dict[str, int] = {}
        """Lane -> stages whose scores against baselines were written."""

    def late_drifts(self, lane: LaneHistory, event: EvaluationDone) -> list[Write]:
        """What rows of later stages, which came before this one, say together with it."""
        return [
            LogPoints(key=self._key(lane, index), points=of_routing(figures, index, event.at))
            for index, figures in lane.drifted_since(event.index).items()
            if figures and lane.stages[index].trained_by is None
        ]

    def cells(self, lane: LaneHistory) -> list[Write]:
        """Rows of the lane's matrix not yet written."""
        last = max(lane.rows, default=-1)
        fresh = [index for index in range(-1, last + 1) if (lane.name, index) not in self._shown]
        rows = {index: row for index in fresh if (row := lane.row(index)) is not None}
        self._shown |= {(lane.name, index) for index in rows}
        keys = task_keys(tuple(lane.tasks))
        points = (
            point(f"task/{keys[task]}", score, index + 1, row.at)
            for index, row in rows.items()
            for task, score in enumerate(row.scores)
            if score is not None
        )
        return [LogPoints(key=self._key(lane), points=tuple(points))]

    def sums(self, lane: LaneHistory, at: float, late: bool = False) -> list[Write]:
        """Metrics of every row that became complete: a lane's curves over stages learnt.

        ``late``: the untrained model's row has come, which adds metrics to rows written before it.
        """
        names = scores.meaningful(lane)
        rows = self._summed.setdefault(lane.name, RowByRow(names))
        initial = scores.initial(self._history.lanes, lane)
        found = list(enumerate(rows.late(initial) if late else (), start=1))
        for row in lane.complete(len(rows.rows)):
            values = rows.add(row, initial)
            count = len(rows.rows)
            found.append((count, values | lane.trainability(count)))
        points = tuple(
            point(name, value, count, at) for count, told in found for name, value in told.items()
        )
        return [LogPoints(key=self._key(lane), points=points)]

    def comparisons(self, at: float) -> dict[str, Write]:
        """Lane -> scores against its baselines of every stage after which those became known."""
        writes: dict[str, Write] = {}
        for lane in self._history.lanes.values():
            if not lane.opened or not lane.baselines:
                continue
            known = scores.compared(self._history.lanes, lane)
            done, self._compared[lane.name] = self._compared.get(lane.name, 0), known
            points = tuple(
                point(name, value, count, at)
                for count in range(done + 1, known + 1)
                for name, value in scores.of_baselines(self._history.lanes, lane, count).items()
            )
            if points:
                writes[lane.name] = LogPoints(key=self._key(lane), points=points)
        return writes
