"""A sweep in MLflow: sweep -> trial -> stage, projected by the sweep's process alone.

One process writes for all trials, so that a file store is never fought over; every journal has
its own ledger, so that a resumed sweep goes on with the runs it had.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from orchestrator.core.events import RunInterrupted
from orchestrator.core.folder import open_folder
from orchestrator.core.journal import JOURNAL_FILE, read
from orchestrator.core.records import Record
from orchestrator.report.history import RunHistory
from orchestrator.report.text import Links
from orchestrator.tracking.background import GoOn, always
from orchestrator.tracking.pages import NOTE, Page
from orchestrator.tracking.projection import STATUS
from orchestrator.tracking.tracker import Tracker
from orchestrator.tracking.writes import CloseRun, LogPoints, OpenRun, Point, ReopenRun, Write
from tune_spaces.objective import Objective, parse, scores_of
from tune_spaces.search import Plan
from tune_spaces.summary import Attempt, best
from workers.contract import Json


class SweepTracker:
    """Brings one store up to date with the journals of a sweep's trials."""

    def __init__(self, plan: Plan, folder: Path, uri: str | None) -> None:
        """``uri``: MLflow store; None = a SQLite file in the folder that holds the sweep's."""
        self.plan, self.folder = plan, folder
        self.sweep = Tracker(folder, uri)
        self._objective: Objective = parse(plan.objective)
        self._trials: dict[Path, Tracker] = {}
        self._told: dict[Path, int] = {}
        """Rows whose objective was written, by attempt."""

    def connect(self) -> None:
        """Make sure the store answers and the sweep has its run; InputError where it does not."""
        self.sweep.connect()
        now = round(time.time() * 1000)
        self.sweep.publish([self._open(now), ReopenRun(key=self.plan.id)], {})

    def project(self, go_on: GoOn = always) -> int:
        """Write what trials have added; returns how many attempts are shown.

        ``go_on``: asked between writes. Raises TrackingAway where the store fails.
        """
        for path in sorted((self.folder / "trials").glob(f"*/*/{JOURNAL_FILE}")):
            attempt = path.parent
            tracker = self._trials.setdefault(attempt, Tracker(attempt, self.sweep.store.uri))
            tracker.project(go_on)
            if not go_on():
                break
            writes, rows = self._objectives(attempt)
            tracker.publish(writes, {})
            self._told[attempt] = rows  # only now: what a store refused is written next time
        return len(self._trials)

    def finish(self, status: str, found: list[Attempt], page: Page) -> None:
        """Show the sweep's results on its run and close it. Metrics come with its end only: one
        that was interrupted goes on, and would have them twice."""
        key = self.plan.id
        points = () if status == "interrupted" else _outcome(found)
        closed = CloseRun(key=key, status=STATUS[status], at=round(time.time() * 1000))
        self.sweep.publish([LogPoints(key=key, points=points), closed], {key: page})

    def links(self) -> Links:
        return self.sweep.links()

    def _open(self, at: int) -> OpenRun:
        plan = self.plan
        parameters = {key: str(domain) for key, domain in plan.parameters().items()}
        asked = asdict(plan)
        names = ("space", "objective", "scheduler", "search", "num_samples", "grace", "seed")
        return OpenRun(
            key=plan.id,
            parent=None,
            name=plan.id,
            at=at,
            tags={
                "level": "sweep",
                "stream": plan.raw["name"],
                "sweep": plan.id,
                "mlflow.source.name": "growstage",
                "mlflow.source.type": "PROJECT",
            },
            params={**{name: str(asked[name]) for name in names}, **parameters},
        )

    def _objectives(self, attempt: Path) -> tuple[list[Write], int]:
        """The objective after every row that was not written yet, and how many rows there are."""
        history = RunHistory()
        for record, _ in read(attempt / JOURNAL_FILE):
            history.add(record)
        if history.started is None:
            return [], 0
        (lane,) = history.lanes.values()
        scores, learnt, told = scores_of(lane), len(lane.complete()), self._told.get(attempt, 0)
        points = tuple(
            Point(
                name="objective",
                value=self._objective(scores, count),
                step=count,
                at=round(lane.rows[count - 1].at * 1000),
            )
            for count in range(told + 1, learnt + 1)
            if count - 1 in lane.rows
        )
        key = history.started.run_id
        return [LogPoints(key=key, points=points)] if points else [], learnt


def close_journals(found: list[Attempt], reason: str) -> None:
    """End the journals of attempts whose driver was stopped before it could."""
    for attempt in found:
        if attempt.status != "running":
            continue
        journal = open_folder(attempt.folder).journal(patience=15.0)
        journal.append(Record(event=RunInterrupted(at=time.time(), reason=reason)))
        journal.close()


def sweep_page(summary: Json, texts: Mapping[str, str], images: Mapping[str, bytes]) -> Page:
    """Note, table and figures of the sweep's run."""
    stages = summary["stages"]
    head = (
        f"**{len({t['trial'] for t in summary['trials']})} trials** · stages trained "
        f"{stages['trained']} of {stages['planned']} planned · saved by early stopping "
        f"{stages['saved_by_early_stopping']} · by shared prefixes "
        f"{stages['saved_by_shared_prefixes']}"
    )
    rows = ["| trial | stages | objective | experts | status |", "| --- | --- | --- | --- | --- |"]
    ranked = sorted(summary["trials"], key=lambda t: (-t["stages"], -(t["objective"] or 0.0)))
    rows += [
        f"| {_short(t)} | {t['stages']} | "
        f"{'' if t['objective'] is None else format(t['objective'], '.4f')} | {t['experts']} | "
        f"{t['status']} |"
        for t in ranked[:40]
    ]
    return Page(
        texts={**texts, "sweep.json": json.dumps(summary, indent=1)},
        images=images,
        tags={NOTE: f"{head}\n\n" + "\n".join(rows)},
    )


def _short(trial: Json) -> str:
    settings = " ".join(f"{k.rpartition('.')[2]}={v}" for k, v in trial["settings"].items())
    return f"{trial['trial'].rpartition('_')[2]}.{trial['attempt']} {settings}"


def _outcome(found: list[Attempt]) -> tuple[Point, ...]:
    """What a sweep came to, at the time of the last record of all: told again, it is the same."""
    if not found:
        return ()
    at = round(1000 * max(attempt.last for attempt in found))
    values: dict[str, float] = {"trials": len({attempt.trial for attempt in found})}
    if (winner := best(found)) is not None:
        values |= {"best.objective": winner.values[-1], "best.experts": winner.experts}
    return tuple(Point(name=name, value=float(v), step=0, at=at) for name, v in values.items())
