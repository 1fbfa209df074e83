"""What the tracker has done, durable beside the journal: its offset and the ids it was given.

Append-only JSON lines, one store after another; knows no MLflow. Losing the file costs time, not
correctness: everything is found again by its key.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from contextlib import closing
from pathlib import Path

from orchestrator.core.append_only import DISK, AppendOnly, Disk
from workers.contract import InputError, Json

LEDGER_FILE = "tracking.jsonl"


class Ledger:
    """The tracker's memory for one run folder and one store."""

    def __init__(self, path: Path, store: str, disk: Disk = DISK) -> None:
        """Read what is known of ``store``; its address is kept as a digest, it may hold a password.

        Raises InputError where the file is damaged or cannot be read.
        """
        self.path, self._disk = path, disk
        self.offset = 0
        self.mark = ""
        """Of the journal's line that ends at ``offset``."""
        self.ids: dict[str, str] = {}
        """``run:KEY``, ``model:KEY`` or ``experiment`` -> id in the store."""
        self.asked: Counter[str] = Counter()
        """``run:KEY`` or ``model:KEY`` -> how often it was asked for, answered or not."""
        self.unanswered: set[str] = set()
        """``page:KEY`` and what ``writes.place`` names, where it was asked for with no answer."""
        self._store = hashlib.sha256(store.encode()).hexdigest()[:16]
        for line in _lines(path):
            if line["store"] != self._store:
                continue
            if line.get("forget"):
                self._empty()
            self.asked.update(line.get("asked", ()))
            self.unanswered.update(line.get("unanswered", ()))
            if "offset" in line:
                self.offset, self.mark = line["offset"], line.get("mark", "")
            self.ids.update(line.get("ids", {}))
        self._torn = path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n")

    def created(self, name: str, identifier: str) -> None:
        """Remember an id, durably."""
        self.ids[name] = identifier
        self._append({"ids": {name: identifier}})

    @property
    def doubtful(self) -> set[str]:
        """What may have been done, or be done at any time, without our knowing: made twice, or
        set back."""
        return {name for name, times in self.asked.items() if times > 1} | self.unanswered

    def ask(self, name: str) -> None:
        """Remember, durably, that a run or model is asked for: before it is."""
        self.asked[name] += 1
        self._append({"asked": [name]})

    def doubt(self, name: str) -> None:
        """Remember, durably, that something was asked for with no answer."""
        if name not in self.unanswered:
            self.unanswered.add(name)
            self._append({"unanswered": [name]})

    def forget(self) -> None:
        """Drop all that is known: the store does not hold it (any more)."""
        self._empty()
        self._append({"forget": True})

    def _empty(self) -> None:
        self.ids, self.asked, self.unanswered, self.offset = {}, Counter(), set(), 0

    def advance(self, offset: int, mark: str) -> None:
        """Everything before ``offset`` of the journal, whose line there has this mark, is in the
        store."""
        self.offset, self.mark = offset, mark
        self._append({"offset": offset, "mark": mark})

    def rewind(self) -> None:
        """Nothing is surely in the store: the journal is another one than the offset was for."""
        self.advance(0, "")

    def _append(self, line: Json) -> None:
        text = json.dumps({"store": self._store, **line})
        with closing(AppendOnly(self.path, self._disk)) as file:
            file.append(f"{chr(10) if self._torn else ''}{text}\n".encode())
        self._torn = False


def tracked_offset(run_dir: Path) -> int:
    """Bytes of the run's journal that a store shows (the store written to last); 0 = none."""
    offsets: dict[str, int] = {}
    last = ""
    for line in _lines(run_dir / LEDGER_FILE):
        last = line["store"]
        known = 0 if line.get("forget") else offsets.get(last, 0)
        offsets[last] = line.get("offset", known)
    return offsets.get(last, 0)


def _lines(path: Path) -> list[Json]:
    """Whole lines of the ledger; a torn one is what a crash leaves and says nothing."""
    if not path.is_file():
        return []
    found = []
    for number, text in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if not isinstance(line, dict) or "store" not in line:
            raise InputError(
                f"{path}: line {number} is not a tracking record; delete the file, it is built anew"
            )
        found.append(line)
    return found
