"""Tables by name: find the class behind a ``kind``, and construct it from its config.

A table maps a name to a class with a nested frozen dataclass ``Config`` whose first field is
``kind``; a name with a colon (``my_module:MyStream``) is imported instead. A config field whose
value is itself a choice says so in its metadata: ``field(metadata={"table": EXPERTS, ...})``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the user's input: where, what was found, what is allowed."""

    path: str
    found: str
    allowed: str

    def __str__(self) -> str:
        """One line, whatever keys a file has: what cannot be printed is shown escaped."""
        text = f"{self.path}: {self.found}; {self.allowed}"
        return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    return character if character.isprintable() else repr(character)[1:-1]


Table = Mapping[str, type]


def choice(table: Table | Callable[[], Table], default: str) -> Any:
    """Field of a config that holds the Config of one entry of ``table``.

    In TOML it is a table with ``kind``, or just the name; ``default`` is used where it is absent.
    ``table`` may be a function that imports it, where naming it must cost nothing.
    """
    return field(
        default_factory=lambda: resolved(table)[default].Config(),  # type: ignore[attr-defined]
        metadata={"table": table},
    )


def choices(table: Mapping[str, type]) -> Any:
    """Field of a config that holds Configs of any number of entries of ``table``, none at first.

    In TOML it is a list whose entries are written as those of ``choice``.
    """
    return field(default=(), metadata={"table": table, "many": True})


def resolved(table: Table | Callable[[], Table]) -> Table:
    """The table itself, imported where it is named by a function."""
    return table() if callable(table) else table


def lookup(table: Mapping[str, type], kind: Any, path: str) -> type | Problem:
    """The class behind a name of ``table`` or behind an import path ``module:Class``."""
    if not isinstance(kind, str):
        return Problem(path, f"got {kind!r}", "must be a name (a string)")
    if kind in table:
        return table[kind]
    if ":" in kind:
        module, _, name = kind.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            return Problem(
                path, f"cannot import {kind!r} ({error})", "give module:Class on the path"
            )
    return Problem(
        path, f"unknown name {kind!r}", f"allowed: {', '.join(sorted(table))}, or module:Class"
    )


def construct(table: Mapping[str, type], config: Any, *args: Any, **kwargs: Any) -> Any:
    """``table[config.kind](config, ...)`` for a config that was checked before."""
    cls = lookup(table, config.kind, "kind")
    assert not isinstance(cls, Problem), str(cls)
    return cls(config, *args, **kwargs)


def first_line(cls: type) -> str:
    """The one-line description shown by ``growstage list``."""
    return (cls.__doc__ or "").strip().partition("\n")[0]
