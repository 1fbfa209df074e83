"""A whole lane in the test's process: run undisturbed, or with its worker and driver killed.

Real driver, journal, trainer and evaluator; only Ray is left out. An entry of a table passes its
door where both ways end with the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.beginning import begin, joined, takeover
from orchestrator.config.file import check
from orchestrator.core.events import Action, ApplyEdit, Record, RunInterval
from orchestrator.core.journal import JOURNAL_FILE, Journal, read
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
    def essence(self) -> Json:
        """All that must not depend on what was killed."""
        return {"digests": self.digests, "matrix": self.matrix, "edits": self.edits}


def run_lane(folder: Path, raw: Mapping[str, Any]) -> Outcome:
    """Train the config's only lane in ``folder``, undisturbed."""
    _drive(folder, raw, lambda action: None)
    return outcome(folder)


def run_killed(folder: Path, raw: Mapping[str, Any], lose: Lose | None = None) -> Outcome:
    """The same with losses; by default the worker dies around the first edit and around the last
    interval of the second stage, and the driver dies once after an edit was decided."""
    lose = default_losses() if lose is None else lose
    try:
        _drive(folder, raw, lose, kill_after_edits=1)
    except DriverKilled:
        _drive(folder, raw, lose, resumed=True)
    return outcome(folder)


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


def outcome(folder: Path) -> Outcome:
    """What the journal in ``folder`` says."""
    records = tuple(record for record, _ in read(folder / JOURNAL_FILE))
    told = report(records)
    (lane,) = told["lanes"]
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
    *,
    kill_after_edits: int | None = None,
    resumed: bool = False,
) -> None:
    losses = {"worker_lost": {"retries": 9, "then": "fail_lane"}}
    config = check({"name": "door", "failures": losses, **raw}, "door")
    decided = 0

    def listen(record: Record) -> None:
        nonlocal decided
        decided += len(record.edits)
        if kill_after_edits is not None and record.edits and decided > kill_after_edits:
            raise DriverKilled

    executor = LocalExecutor(folder / "checkpoints", lose)
    journal = Journal(folder / JOURNAL_FILE)
    try:
        driver = Driver(config, journal, executor, (listen,))
        first = [takeover(2, 0)] if resumed else [begin(config, "door"), joined(2, 0)]
        status = driver.run(*first)
    finally:
        journal.close()
    assert status == "done", report(record for record, _ in read(folder / JOURNAL_FILE))
