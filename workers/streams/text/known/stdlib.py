"""The standard library of the running Python, without its tests."""

from __future__ import annotations

import sysconfig
from pathlib import Path

LEFT_OUT = frozenset({"test", "tests", "idle_test", "pydoc_data", "site-packages", "dist-packages"})
"""Folders that are no part of the library, test it, or hold its documentation as strings."""


def stdlib() -> Path:
    """Its folder."""
    return Path(sysconfig.get_paths()["stdlib"])


def modules(root: Path) -> list[Path]:
    """Its source files, sorted."""
    found = root.rglob("*.py")
    return sorted(file for file in found if not LEFT_OUT & set(file.relative_to(root).parts))
