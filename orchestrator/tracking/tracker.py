"""Brings an MLflow store up to date with a run's journal and draws what is out of date.

Knows no Ray and no policies; the journal stays the truth.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from orchestrator.core.clock import CLOCK, Clock
from orchestrator.core.journal import JOURNAL_FILE, mark_at, read
from orchestrator.report.text import Links
from orchestrator.tracking import lineage, pages, views
from orchestrator.tracking.background import BackgroundTracker as BackgroundTracker
from orchestrator.tracking.background import GoOn, always, to_stderr
from orchestrator.tracking.background import TrackingAway as TrackingAway
from orchestrator.tracking.ledger import tracked_offset as tracked_offset
from orchestrator.tracking.projection import Dirty, Projection
from orchestrator.tracking.store import Store, answering, default_uri, open_client
from orchestrator.tracking.writes import Setting, Write, place
from workers.contract import InputError

RECORDS = 400
"""Journal records written between two advances of the offset."""
DRAWING = 0.05
"""Share of the time that may go into figures while the run goes on."""


class Tracker:
    """Projects one run's journal into one MLflow store."""

    def __init__(
        self,
        run_dir: Path,
        uri: str | None,
        store: Store | None = None,
        drawn: Any = pages,
        until: Callable[[], float] = lambda: math.inf,
        clock: Clock = CLOCK,
    ) -> None:
        """``store``: of this address; ``drawn``: what draws pages, as ``tracking.pages`` does;
        ``until``: bytes of the journal that are durable, while a driver writes it: what may still
        be lost is not shown."""
        self.run_dir = run_dir.resolve()
        self.store = store or Store(self.run_dir, uri or default_uri(self.run_dir))
        self._drawn, self._until, self._clock = drawn, until, clock
        self._rested = 0.0
        """Moment from which on figures may be drawn again."""
        self._start_over()

    def connect(self) -> None:
        """Make sure the store answers; InputError with the cure where it does not."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.store.connect()

    def project(self, go_on: GoOn = always) -> int:
        """Write to the store what the journal holds beyond the offset; returns the new offset.

        ``go_on``: asked between writes; what is left when it says no is written another time.

        Raises TrackingAway where the store fails: the offset and all later calls are unharmed, and
        the next one tries the same writes again, however long the journal before them is.
        """
        try:
            with answering():
                while go_on() and self._step(go_on):
                    pass
        except TrackingAway:
            self.store.recall()
            raise
        return self.store.ledger.offset

    def publish(self, writes: Iterable[Write], shown: Mapping[str, pages.Page]) -> None:
        """Perform writes that follow from no journal record, such as a search's parent run.

        ``shown``: run key -> its page. Idempotent: a run that has the key is found, not made again.

        Raises TrackingAway where the store fails.
        """
        with answering():
            self.store.perform(writes)
            for key, page in shown.items():
                self.store.show(key, page)

    def links(self, port: int = views.UI_PORT) -> Links:
        """The command and the links that show the run; experiment 0 before anything is written."""
        return views.links(self.store.uri, self.store.ledger.ids.get("experiment", "0"), port)

    def stage(self, lane: str, index: int) -> tuple[str, str]:
        """(key of the run that shows a stage, its stream's name), from the journal alone."""
        projection = Projection()
        for record, _ in read(self.run_dir / JOURNAL_FILE):
            projection.add(record)
        history = projection.history
        assert history.started is not None
        return projection.labels.key(history.lanes[lane], index), history.started.name

    # ------------------------------------------------------------ one chunk of the journal

    def _start_over(self) -> None:
        """Read the journal from its beginning again."""
        self._projection = Projection()
        self._folded, self._mark = 0, ""
        self._offset = self.store.ledger.offset
        """The ledger's, as it was left."""
        self._unwritten: list[Write] | None = None
        """What follows from records that were folded and that the store does not surely hold."""
        self._settings: dict[str, Setting] = {}
        """What was set last, by its place."""
        self._stale: set[str] = set()
        """Lanes whose figures are behind."""

    def _step(self, go_on: GoOn = always) -> bool:
        """Write one chunk and advance the offset; False where the journal holds no more."""
        path = self.run_dir / JOURNAL_FILE
        if not path.is_file():
            return False
        self.store.check()
        ledger = self.store.ledger
        if self._folded and ledger.offset != self._offset:  # the store was emptied
            self._start_over()
        if not self._folded and ledger.offset and mark_at(path, ledger.offset) != ledger.mark:
            to_stderr(f"{ledger.path} was written for another journal; all is written again")
            ledger.rewind()  # identical rows are stored once
        more = self._unwritten is not None or self._fold(path)
        if more:
            self.store.perform(self._unwritten or ())
        elif self._projection.history.status != "running":
            self.store.settle(self._settings)
            self._projection.show_again(self.store.ledger.doubtful)
        if self._refresh(go_on) and self._folded > ledger.offset:
            ledger.advance(self._folded, self._mark)
        self._offset, self._unwritten = ledger.offset, None
        return more

    def _fold(self, path: Path) -> bool:
        """Take in one chunk, and note what is to be written; False where there is none."""
        durable, offset = self._until(), self.store.ledger.offset
        records = read(path, self._folded, self._mark)
        chunk = list(islice(takewhile(lambda known: known[1] <= durable, records), RECORDS))
        writes: list[Write] = []
        for record, end in chunk:
            told = self._projection.add(record)
            self._settings |= {place(write): write for write in told if isinstance(write, Setting)}
            if end > offset:
                writes += told
            else:
                self._projection.dirty = Dirty()
            self._folded = end
        if chunk:
            self._unwritten = writes
            self._mark = mark_at(path, self._folded) or ""
        return bool(chunk)

    # ------------------------------------------------------------ notes, tables, figures

    def _refresh(self, go_on: GoOn) -> bool:
        """Write anew what the chunk made out of date; the same state gives the same files. False
        where figures are left that nothing later would draw."""
        projection, dirty = self._projection, self._projection.dirty
        history = projection.history
        for name, index in sorted(dirty.stages):
            lane = history.lanes[name]
            self.store.show(
                projection.labels.key(lane, index), self._drawn.stage_page(history, lane, index)
            )
        for name in sorted(dirty.lanes):
            key = projection.labels.key(history.lanes[name])
            self.store.show(
                key, self._drawn.lane_page(history, name, self.store.run(key), self.run_dir)
            )
        self._stale |= dirty.lanes
        self._draw(dirty.ended, go_on)
        if dirty.run and projection.labels.trial is None:
            runs = {
                name: self.store.run(projection.labels.key(lane))
                for name, lane in history.lanes.items()
                if lane.opened
            }
            key, experiment = projection.labels.key(), self.store.ledger.ids["experiment"]
            page = self._drawn.run_page(history, self.store.run(key), experiment, runs)
            self._keep(page, "")
            self.store.show(key, page)
        projection.dirty = Dirty()
        return not (dirty.ended and self._stale)

    def _draw(self, now: bool, go_on: GoOn) -> None:
        """Draw stale lanes anew, but spend no more than DRAWING of the time on it."""
        history = self._projection.history
        for name in sorted(self._stale):
            started = self._clock.moment()
            if not go_on() or (not now and started < self._rested):
                return
            page = self._drawn.lane_figures(history, name)
            self._keep(page, f"{views.file_name(name)}.")
            self.store.show(self._projection.labels.key(history.lanes[name]), page)
            self._stale.remove(name)
            ended = self._clock.moment()
            self._rested = ended + (ended - started) / DRAWING

    def _keep(self, page: pages.Page, prefix: str) -> None:
        """Put a page's figures into the run's folder too, so that they are drawn once."""
        for path, image in page.images.items():
            folder, _, name = path.rpartition("/")
            file = self.run_dir / folder / f"{prefix}{name}"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(image)


def print_lineage(name: str, tracking_uri: str | None, as_json: bool) -> None:
    """Print where a model or stage came from, as a tree or as JSON."""
    uri = tracking_uri or lineage_uri()
    with answering():
        chain = lineage.lineage(open_client(uri), name)
    lineage.show(chain, as_json)


def lineage_uri() -> str:
    """The store to read without being told: the environment's, else a file of the usual runs."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    for file in (Path("runs/mlflow.db"), Path("mlflow.db")):
        if file.is_file():
            return f"sqlite:///{file.resolve()}"
    raise InputError(
        "no tracking store: neither runs/mlflow.db nor mlflow.db is here; give one with "
        "--tracking-uri (http://HOST:PORT or sqlite:////ABSOLUTE/FILE.db)"
    )
