"""A whole lane in the test's process: run undisturbed, or with its worker and driver killed.

Real driver, journal, trainer and evaluator; only Ray is left out. An entry of a table passes its
door where both ways end with the same bits. Both ways keep a checkpoint after every interval, so
that a lost worker goes on inside a stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.beginning import begin, joined, takeover
from orchestrator.config.file import check
from orchestrator.core.actions import Action, ApplyEdit, RunInterval
from orchestrator.core.events import IntervalDone, RunResumed, WorkFailed
from orchestrator.core.journal import JOURNAL_FILE, Journal, read
from orchestrator.core.records import Record
from orchestrator.driver import Driver
from orchestrator.report.history import report
from tests.local import LocalExecutor
from workers.contract import Json

Lose = Callable[[Action], "str | None"]
"""Names commands whose worker dies: ``before`` or ``after`` it executed them; None = it lives."""


class DriverKilled(BaseException):
    """Stands for kill -9 of the driver: nothing catches it on the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a lane came to, as its journal tells."""

    records: tuple[Record, ...]
    report: Json
    lane: Json
    """The lane's part of the report."""
    digests: tuple[str, ...]
    """Checkpoint digest after each complete stage: model, optimizer, method, generators."""
    matrix: tuple[tuple[float, ...], ...]
    edits: tuple[Json, ...]
    """Edits in order as the report holds them, without times."""

    @property
    def intervals(self) -> dict[tuple[str, int], Json]:
        """(stage, interval) -> what was measured in it, times left out; of reruns the last one."""
        reports = [
            record.event.report
            for record in self.records
            if isinstance(record.event, IntervalDone) and record.event.lane == self.lane["lane"]
        ]
        return {
            (report.stage, report.n): {
                name: getattr(report, name)
                for name in (
                    "steps",
                    "metrics",
                    "signals",
                    "gate_weights",
                    "counts",
                    "tokens",
                    "sums",
                )
            }
            for report in reports
        }

    @property
    def essence(self) -> Json:
        """All that must not depend on what was killed."""
        told = ("figures", "model_figures")
        return {
            "digests": self.digests,
            "matrix": self.matrix,
            "edits": self.edits,
            "intervals": self.intervals,
            "figures": [[stage[name] for name in told] for stage in self.lane["stages"]],
        }


def run_lane(folder: Path, raw: Mapping[str, Any]) -> Outcome:
    """Train the config's only lane in ``folder``, undisturbed."""
    _drive(folder, raw, lambda action: None)
    return outcome(folder)


def run_killed(
    folder: Path, raw: Mapping[str, Any], lose: Lose | None = None, edits: str = "grow"
) -> Outcome:
    """The same with losses; by default the worker dies around the first edits and after the second
    interval of stages. The driver dies three times: after edits were decided, again after later
    ones where there are any, and after an interval.

    Fails where nothing was killed, or where no edit of kind ``edits`` was made: it would show
    nothing then.
    """
    lose = default_losses() if lose is None else lose
    deaths: Sequence[Callable[[Record], bool]] = (_decides, _decides, _measures)
    for number, dies in enumerate((*deaths, None)):
        try:
            _drive(folder, raw, lose, dies, resumed=number > 0)
        except DriverKilled:
            continue
        break
    found = outcome(folder)
    events = [record.event for record in found.records]
    assert any(isinstance(event, RunResumed) for event in events), "no driver was killed"
    assert any(isinstance(event, WorkFailed) for event in events), "no worker was killed"
    assert any(edit["kind"] == edits for edit in found.edits), f"the lane has no edit {edits}"
    return found


def _decides(record: Record) -> bool:
    return bool(record.edits)


def _measures(record: Record) -> bool:
    return isinstance(record.event, IntervalDone)


def default_losses() -> Lose:
    """Each command named here kills its worker once."""
    gone: set[Any] = set()

    def lose(action: Action) -> str | None:
        name: Any = None
        moment = "after"
        if isinstance(action, ApplyEdit):
            name, moment = ("edit", action.edit.id), "after" if len(gone) % 2 else "before"
        if isinstance(action, RunInterval) and action.n == 2:
            name = ("interval", action.seq)
        if name is None or name in gone or len(gone) >= 4:
            return None
        gone.add(name)
        return moment

    return lose


def run_lanes(
    folder: Path,
    raw: Mapping[str, Any],
    lose: Lose | None = None,
    deaths: Sequence[Callable[[Record], bool]] = (),
) -> dict[str, Outcome]:
    """Train all of the config's lanes in ``folder``; the driver dies after the first record of
    each of ``deaths``, the workers where ``lose`` says."""
    for number, dies in enumerate((*deaths, None)):
        try:
            _drive(folder, raw, lose or (lambda action: None), dies, resumed=number > 0)
        except DriverKilled:
            continue
        assert dies is None, f"nothing killed driver {number}"
    return outcomes(folder)


def outcome(folder: Path) -> Outcome:
    """What the journal in ``folder`` says of its only lane."""
    (found,) = outcomes(folder).values()
    return found


def outcomes(folder: Path) -> dict[str, Outcome]:
    """Lane -> what the journal in ``folder`` says of it."""
    records = tuple(record for record, _ in read(folder / JOURNAL_FILE))
    told = report(records)
    return {lane["lane"]: _outcome(records, told, lane) for lane in told["lanes"]}


def _outcome(records: tuple[Record, ...], told: Json, lane: Json) -> Outcome:
    edits = tuple(
        {k: v for k, v in edit.items() if k != "seconds"}
        for stage in lane["stages"]
        for edit in stage["edits"]
    )
    return Outcome(
        records=records,
        report=told,
        lane=lane,
        digests=tuple(
            stage["checkpoint"]["digest"] for stage in lane["stages"] if stage["checkpoint"]
        ),
        matrix=tuple(tuple(row) for row in lane["matrix"]),
        edits=edits,
    )


def _drive(
    folder: Path,
    raw: Mapping[str, Any],
    lose: Lose,
    dies: Callable[[Record], bool] | None = None,
    *,
    resumed: bool = False,
) -> None:
    """One driver, to the lane's end or to the first durable record after which it ``dies``."""
    losses = {"worker_lost": {"retries": 9, "then": "fail_lane"}}
    config = check({"name": "door", "failures": losses, "checkpoint_every": 1, **raw}, "door")

    def listen(record: Record) -> None:
        if dies is not None and dies(record):
            raise DriverKilled

    executor = LocalExecutor(folder / "checkpoints", lose)
    journal = Journal(folder / JOURNAL_FILE)
    try:
        driver = Driver(config, journal, executor, (listen,))
        first = [takeover(2, 0)] if resumed else [begin(config, config.name), joined(2, 0)]
        status = driver.run(*first)
    finally:
        journal.close()
    assert status == "done", report(record for record, _ in read(folder / JOURNAL_FILE))
