"""The user's own modules: files behind the ``module:Class`` names of a config."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workers.contract import Json

NAMED = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):[A-Za-z_]\w*")
ROOT = Path(__file__).resolve().parents[2]
OURS = ("ops", "workers", "orchestrator", "tune_spaces")


def own_modules(config: Json) -> dict[str, Path]:
    """Module -> file, in the order of names, of every ``module:Class`` that a checked config names;
    what is installed and what is part of growstage is left out, their versions tell them."""
    names = {match[1] for text in _texts(config) if (match := NAMED.fullmatch(text))}
    found = {name: _file(name) for name in sorted(names)}
    return {name: file for name, file in found.items() if file and not _versioned(file)}


def module_digests(config: Json) -> dict[str, str]:
    """Module -> SHA-256 (first 16 hex digits) of its file, for each of a config's own modules."""
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        for name, file in own_modules(config).items()
    }


def _texts(value: Any) -> Iterator[str]:
    """Every string in a plain value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inside in value.values():
            yield from _texts(inside)
    elif isinstance(value, Sequence):
        for inside in value:
            yield from _texts(inside)


def _file(module: str) -> Path | None:
    """Where a module's code stands; None where it is no file, or where there is none of the name
    (a string that only looks like one)."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    return Path(spec.origin).resolve()


def _versioned(file: Path) -> bool:
    """Whether the code's version is known by other means."""
    installed = (sysconfig.get_paths()[name] for name in ("purelib", "platlib", "stdlib"))
    return any(
        file.is_relative_to(folder)
        for folder in (*map(Path, installed), *(ROOT / name for name in OURS))
    )
