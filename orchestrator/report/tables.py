"""Results of runs as one long table, a row a value: ``results.csv`` and ``results.parquet``.

Knows the history of a run and no file but what it is told to write.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from orchestrator.report import scores
from orchestrator.report.history import RunHistory
from orchestrator.report.lane_history import LaneHistory, Row
from orchestrator.report.summary import costs, settings_digest


class Value(NamedTuple):
    """One row of the table."""

    run: str
    """Id of the run."""
    lane: str
    variant: str
    """The lane's name without its seed."""
    settings: str
    """Digest of the lane's settings, seed apart: what to group by, with ``variant``."""
    method: str
    seed: int
    stage: int | None
    """Stage after which it was measured, from 0; -1 = the lane's first model; None = of the whole
    lane."""
    task: str
    """Task that it is of; empty = of the model or the lane."""
    part: str
    """``test``, ``validation`` or ``training``; empty = of no data."""
    metric: str
    """``score`` = a cell of the matrix; else a figure of an evaluation or of training, a metric of
    the lane (``acc.final``, ...), or what it took (``seconds``, ``parameters``, ...)."""
    value: float


def values(histories: Iterable[RunHistory]) -> Iterator[Value]:
    """Every value of the runs, lane by lane and stage by stage."""
    for history in histories:
        assert history.started is not None
        run = history.started.run_id
        for lane in history.lanes.values():
            head = (run, lane.name, lane.label, settings_digest(lane, run), lane.method, lane.seed)
            for where, value in _of_lane(history, lane):
                yield Value(*head, *where, value)


Where = tuple[int | None, str, str, str]


def _of_lane(history: RunHistory, lane: LaneHistory) -> Iterator[tuple[Where, float]]:
    """((stage, task, part, metric), value) of one lane."""
    for index, row in sorted(lane.rows.items()):
        yield from _of_row(lane, index, row)
    kept = lane.kept()
    for index, stage in sorted(lane.stages.items()):
        for metric, value in stage.training.items():
            yield (index, stage.spec.task.name, "training", metric), value
        told = {"seconds": stage.seconds, "steps": stage.steps, "intervals": stage.intervals}
        for metric, value in told.items():
            yield (index, "", "", metric), value
        for metric, value in lane.routing(index, kept).items():
            yield (index, "", "", f"routing/{metric}"), value
    for metric, value in scores.of_lane(history.lanes, lane).items():
        yield (None, "", "test", metric), value
    for metric, value in costs(lane).items():
        yield (None, "", "", metric), value


def _of_row(lane: LaneHistory, index: int, row: Row) -> Iterator[tuple[Where, float]]:
    """The scores and figures of one evaluation."""
    for part, row_scores in (("test", row.scores), ("validation", row.validation)):
        for task, score in zip(lane.tasks, row_scores, strict=False):
            if score is not None:
                yield (index, task, part, "score"), score
    for task, figures in row.figures.items():
        for metric, value in figures.items():
            yield (index, task, "test", metric), value
    for metric, value in row.model_figures.items():
        yield (index, "", "test", metric), value


def as_csv(rows: Iterable[Value]) -> str:
    """The table as CSV with a header; an empty ``stage`` = of the whole lane."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(Value._fields)
    writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    return out.getvalue()


def as_parquet(rows: Iterable[Value]) -> bytes:
    """The table as Parquet, columns typed as ``Value`` is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = list(rows)
    types = {"seed": pa.int64(), "stage": pa.int64(), "value": pa.float64()}
    columns = {
        name: pa.array([row[place] for row in whole], types.get(name, pa.string()))
        for place, name in enumerate(Value._fields)
    }
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()
