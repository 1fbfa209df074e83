"""The journal of a run in another process, read while it goes on, to find the moment to kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.core.events import EditApplied, LaneOpened
from orchestrator.core.journal import JOURNAL_FILE, read
from workers.edits import Edit


class Watched:
    """The journal of a run; what was read once is not read again, which would take a core."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / JOURNAL_FILE
        self.offset = 0
        self.records: list[Any] = []

    def read(self) -> list[Any]:
        """All records so far."""
        if self.path.exists():
            for record, offset in read(self.path, self.offset):
                self.records.append(record)
                self.offset = offset
        return self.records

    def open_edit(self, kind: str) -> Edit | None:
        """An edit of this kind that was decided and that nobody has acknowledged yet."""
        waiting: dict[str, Edit] = {}
        for record in self.read():
            waiting |= {edit.id: edit for edit in record.edits if edit.kind == kind}
            if isinstance(record.event, EditApplied):
                waiting.pop(record.event.edit.id, None)
        return next(iter(waiting.values()), None)

    def worker(self) -> int:
        """Process of the worker that opened a lane last."""
        opened = [r.event.report.pid for r in self.read() if isinstance(r.event, LaneOpened)]
        return opened[-1]
