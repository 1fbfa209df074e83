"""Names that people give to runs and lanes: they become folders and stand in logs."""

from __future__ import annotations

from workers.tables import Problem

ALLOWED = "printable characters without / and \\, at least one that is no dot, at most 100"


def misnamed(name: str | None, path: str) -> list[Problem]:
    """What is wrong with a name: it would leave its folder, or forge a line of a log."""
    if name is None:
        return []
    leaves = any(character in name for character in "/\\") or not name.strip(". ")
    if leaves or not name.isprintable() or len(name) > 100:
        return [Problem(path, f"got {name!r}", ALLOWED)]
    return []
