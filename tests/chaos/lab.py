"""Where faults are injected: a cluster, runs of small lanes, and what must come of them.

``Lab`` knows what each stream comes to where nobody disturbs it; ``Disturbed`` is one run that a
fault disturbs. What is looked at in the end is the journals, the checkpoints, MLflow's store and
the processes that are left.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from orchestrator.core.events import IntervalDone, WorkFailed
from orchestrator.core.journal import first_record
from orchestrator.report.history import RunHistory
from tests.chaos.disturbed import ENDS_S, Disturbed, DisturbedSearch
from tests.chaos.streams import STREAMS
from tests.tokens import write_texts
from tests.watched import Watched

TIMED = ("time/", "system/")
"""Metrics of how long and how large: no two runs have the same."""
_RUN = 2
"""Parts of a row that tells of a run's status."""
FAILURES = "failures"
"""Metric of what went wrong: the journal says what it must show."""


class Lost(AssertionError):  # noqa: N818  (an outcome)
    """Something that was decided or trained is not there, or has other bits."""


class Repeated(AssertionError):  # noqa: N818  (an outcome)
    """Something is there twice."""


@dataclass(frozen=True, slots=True)
class Whole:
    """What a run comes to that nobody disturbs."""

    records: int
    essence: Any
    rows: Counter[Any]


class Lab:
    """A folder, a cluster for all runs, and what undisturbed runs come to."""

    def __init__(self, folder: Path, address: str, store: Path) -> None:
        """``store``: an empty MLflow store's file, which takes seconds to make."""
        self.folder, self.address, self.store = folder, address, store
        self.texts = write_texts(folder / "texts")
        self.whole: dict[str, Whole] = {}
        self.last = ""
        """Stream of the last run."""

    @contextmanager
    def disturbed(self, stream: str, random: Random) -> Iterator[Disturbed]:
        """A run to disturb; its folder is deleted after it."""
        self.last = stream
        if stream not in self.whole:
            self.whole[stream] = self._undisturbed(stream)
        with self._folder(stream, random) as run:
            yield run

    @contextmanager
    def _folder(self, stream: str, random: Random) -> Iterator[Disturbed]:
        folder = self.folder / uuid.uuid4().hex[:8]
        (folder / "runs").mkdir(parents=True)
        shutil.copy(self.store, folder / "runs" / "mlflow.db")
        try:
            kind = DisturbedSearch if STREAMS[stream].searched else Disturbed
            yield kind(self, stream, folder, random)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _undisturbed(self, stream: str) -> Whole:
        with self._folder(stream, Random(0)) as run:
            run.start().succeed(ENDS_S)
            return Whole(len(run.records()), essence(run), rows(run))

    def check(self, run: Disturbed, uri: str | None = None) -> None:
        """The run is what it would have been; raises Lost or Repeated."""
        whole = self.whole[run.stream]
        found = essence(run)
        if found != whole.essence:
            raise Lost(f"the run came to {found}, undisturbed to {whole.essence}")
        for folder in run.runs().values():
            records = Watched(folder).read()
            edits = Counter(edit.id for record in records for edit in record.edits)
            if twice := [name for name, count in edits.items() if count > 1]:
                raise Repeated(f"decided twice: {twice}")
        shown = rows(run, uri)
        told = Counter({row: shown.pop(row) for row in list(shown) if row[1] == FAILURES})
        if told != (known := failures(run)):
            raise Lost(f"MLflow shows the failures {dict(told)}, the journal {dict(known)}")
        if not STREAMS[run.stream].exact:
            at, there = (Counter(row[:3] for row in one.elements()) for one in (whole.rows, shown))
            if twice := [row for row, count in there.items() if count > max(1, at[row])]:
                raise Repeated(f"MLflow has {len(twice)} rows too often, such as {twice[0]}")
            whole_rows = Counter(row for row in at if len(row) == _RUN)
            shown = Counter(row for row in there if len(row) == _RUN)
        else:
            whole_rows = whole.rows
        if missing := whole_rows - shown:
            raise Lost(f"MLflow lacks {len(missing)} rows, such as {next(iter(missing))}")
        if extra := shown - whole_rows:
            raise Repeated(f"MLflow has {len(extra)} rows more, such as {next(iter(extra))}")


def essence(run: Disturbed) -> dict[str, Any]:
    """Everything that must not depend on what was disturbed, by run."""
    exact = STREAMS[run.stream].exact
    return {name: _essence(folder, exact) for name, folder in run.runs().items()}


def _essence(folder: Path, exact: bool) -> Any:
    from orchestrator.session import report_of

    told = report_of(folder)
    if exact:
        lanes = [_bits(lane) for lane in told["lanes"]]
    else:
        lanes = [
            [[edit["kind"] for edit in one["edits"]] for one in lane["stages"]]
            for lane in told["lanes"]
        ]
        lanes.append(_steps(Watched(folder).read()))
    return {"status": told["status"], "lanes": lanes}


def _bits(lane: Any) -> Any:
    return {
        "matrix": lane["matrix"],
        "initial": lane["initial"],
        "checkpoints": [stage["checkpoint"]["digest"] for stage in lane["stages"]],
        "edits": [[edit["fingerprint"] for edit in stage["edits"]] for stage in lane["stages"]],
    }


def _steps(records: list[Any]) -> Any:
    """Steps that each interval had trained at its end, in its stage and in the whole lane."""
    told = [record.event.report for record in records if isinstance(record.event, IntervalDone)]
    return sorted({(r.stage, r.n): (r.steps, r.metrics["lifetime_steps"]) for r in told}.items())


def rows(run: Disturbed, uri: str | None = None) -> Counter[Any]:
    """What MLflow's store shows: each run, with its status, and each row of a metric, as often as
    it is there; without names and times that no two runs share."""
    import mlflow

    client = mlflow.MlflowClient(uri or f"sqlite:///{run.folder / 'runs' / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    named = {_run_id(folder): name for name, folder in run.runs().items()}
    found: Counter[Any] = Counter()
    for one in client.search_runs(experiments, max_results=1000):
        key = _everywhere(one.data.tags["growstage.key"], named)
        found[(key, one.info.status)] += 1
        for name in one.data.metrics:
            if not name.startswith(TIMED):
                for row in client.get_metric_history(one.info.run_id, name):
                    found[(key, name, row.step, row.value)] += 1
    return found


def failures(run: Disturbed) -> Counter[Any]:
    """The rows by which MLflow must show the failures of lanes that had opened."""
    found = Counter[Any]()
    for name, folder in run.runs().items():
        history = RunHistory()
        for record in Watched(folder).read():
            if history.add(record) and isinstance(record.event, WorkFailed):
                lane = history.lanes[record.event.lane]
                assert history.started is not None
                key = f"RUN{name}" if history.started.trial else f"RUN{name}/{lane.name}"
                count = lane.failures
                found[key, FAILURES, count, float(count)] += lane.opened > 0
    return +found


def _run_id(folder: Path) -> str:
    begun = first_record(folder)
    assert begun is not None, f"{folder}: no run there"
    return begun.run_id


def _everywhere(key: str, named: Mapping[str, str]) -> str:
    """A key of MLflow as it is in every run: ids by what the runs are called here; a search has
    the name of its space, a time and a number."""
    for run_id, name in named.items():
        if key == run_id or key.startswith(f"{run_id}/"):
            return f"RUN{name}{key.removeprefix(run_id)}"
    return re.sub(r"^growth-\d+-\d+-\w+", "SEARCH", key)
