"""Reads documents from files of one's own: plain text, lines of JSON, Parquet.

Refuses what is damaged by file and line; nothing is skipped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from workers.contract import InputError


def read(path: Path, field: str) -> Iterator[str]:
    """The documents of one file; ``field``: key or column that holds the text.

    Raises InputError naming the file, and the line or row, where it cannot be read.
    """
    try:
        yield from READERS[path.suffix](path, field)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); check the file") from error


def _plain(path: Path, field: str) -> Iterator[str]:
    """A file of plain text is one document."""
    yield _decoded(path.read_bytes(), str(path))


def _json_lines(path: Path, field: str) -> Iterator[str]:
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, 1):
            where = f"{path}, line {number}"
            line = _decoded(raw, where)
            if line.strip():
                yield _field(line, field, where)


def _field(line: str, field: str, where: str) -> str:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is no JSON ({error}); give one object a line") from error
    if not isinstance(entry, dict) or not isinstance(entry.get(field), str):
        found = ", ".join(sorted(entry)) if isinstance(entry, dict) else type(entry).__name__
        raise InputError(
            f"{where}: has no text under {field!r} (found: {found or 'nothing'}); set stream.field"
        )
    text: str = entry[field]
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: holds half a character ({error.reason} at {error.start}), as texts do that "
            "were cut; mend or leave out the line"
        ) from error
    return text


def _parquet(path: Path, field: str) -> Iterator[str]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if field not in names:
                raise InputError(
                    f"{path}: has no column {field!r} (found: {', '.join(names)}); set stream.field"
                )
            row = 0
            for batch in file.iter_batches(columns=[field]):
                for value in batch.column(0).to_pylist():
                    if not isinstance(value, str):
                        raise InputError(
                            f"{path}, row {row}: column {field!r} holds {value!r}; it must hold "
                            "text in every row"
                        )
                    row += 1
                    yield value
    except pyarrow.ArrowException as error:
        raise InputError(f"{path}: is no Parquet file ({error}); check the file") from error


READERS: Mapping[str, Callable[[Path, str], Iterator[str]]] = {
    ".txt": _plain,
    ".jsonl": _json_lines,
    ".parquet": _parquet,
}
"""Suffix -> function that reads the documents of a file."""


def _decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: byte {error.start} is not UTF-8; convert the file") from error
