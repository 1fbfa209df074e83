"""An MLflow store in a file: looked at before MLflow is, which tries for minutes what cannot be."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

SCHEME = "sqlite:///"
LOOKED_THROUGH = 100 << 20
"""Bytes up to which a file is looked through for damage; it takes a tenth of a second."""


def unreadable(uri: str) -> str | None:
    """Why the file of a store is none that can be used; None where it can, is not there yet, is
    held by somebody, or the store is in no file."""
    if not uri.startswith(SCHEME):
        return None
    path = Path(uri.removeprefix(SCHEME).partition("?")[0])
    if not path.exists():
        return None if path.parent.is_dir() else f"there is no folder {path.parent}"
    if not path.is_file():
        return "it is no file"
    look = "quick_check(1)" if path.stat().st_size <= LOOKED_THROUGH else "schema_version"
    try:
        with closing(sqlite3.connect(path)) as store:
            (told,) = store.execute(f"pragma {look}").fetchone()
    except sqlite3.Error as error:
        held = error.sqlite_errorname in ("SQLITE_BUSY", "SQLITE_LOCKED")
        return None if held else str(error)
    return None if told == "ok" or isinstance(told, int) else f"it is damaged: {told}"
