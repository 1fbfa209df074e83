"""Edits of any kind as a journal holds them: written with all their fields, read by their kind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, TypeAdapter

from workers.contract import Json
from workers.edits import EDITS, Edit
from workers.tables import Problem, lookup


def read_edit(value: Any) -> Edit:
    """An edit of any kind from its plain form; ``kind`` names a line of EDITS or module:Class.

    Raises ValueError where the kind is unknown or the fields are not its own.
    """
    if isinstance(value, Edit):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"an edit must be a table, got {value!r}")
    found: Any = lookup(EDITS, value.get("kind"), "kind")
    if isinstance(found, Problem):
        raise ValueError(str(found))
    if not issubclass(found, Edit):
        raise ValueError(f"kind: {value['kind']!r} is no Edit; subclass workers.edits.Edit")
    edit: Edit = _adapter(found).validate_python(value)
    return edit


@lru_cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


AnyEdit = Annotated[Edit, PlainValidator(read_edit), PlainSerializer(asdict)]
"""An edit in an event or a record: read by its kind, written with all its fields."""


def as_journalled(edits: tuple[Edit, ...], memory: Json) -> tuple[tuple[Edit, ...], Json]:
    """What policies decided as a fold of the journal will give it back, so that a driver which
    takes over sees the same. Raises TypeError or ValueError where a journal cannot hold it."""
    plain = json.loads(json.dumps([list(map(asdict, edits)), memory]))
    return tuple(map(read_edit, plain[0])), plain[1]
