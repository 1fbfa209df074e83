"""Lines of the journal: an event, what policies decided upon it, the mark of the line before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from orchestrator.core.edits import AnyEdit
from orchestrator.core.events import Event
from workers.contract import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line of the journal: an event and what policies decided upon it.

    Both stand in the record so that a fold never asks a policy again.
    """

    event: Event
    edits: tuple[AnyEdit, ...] = ()
    memory: dict[str, Json] = field(default_factory=dict)
    """Policy -> what it remembers from now on, where that changed."""


RECORD: TypeAdapter[Record] = TypeAdapter(Record)


def line(record: Record, after: str = "") -> bytes:
    """The record as one line of a journal, its newline included.

    ``after``: the mark of the line before it, empty in the first one. Numbers that are none (a loss
    that diverged) stay what they are. Raises TypeError where a value in it is none that JSON can
    hold.
    """
    told = {"after": after, **RECORD.dump_python(record)}
    return json.dumps(told, separators=(",", ":")).encode() + b"\n"


def mark(text: bytes) -> str:
    """What the next line of the journal says of this one (its newline included)."""
    return hashlib.sha256(text).hexdigest()[:16]


def follows(text: bytes, after: str) -> bool:
    """Whether a line of the journal says that it comes after the line with this mark."""
    return text.startswith(f'{{"after":"{after}"'.encode())


def chained(records: Iterable[Record], after: str = "") -> tuple[bytes, str]:
    """The records as lines of a journal that follow the line marked ``after``; the last's mark."""
    lines = []
    for record in records:
        lines.append(line(record, after))
        after = mark(lines[-1])
    return b"".join(lines), after
