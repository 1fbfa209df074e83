"""Tables by name, and the one way a config section becomes an object.

A table maps a name to a class whose nested ``Config`` is a frozen dataclass with a ``kind``
field; a name with a colon (``my_module:MyStream``) is imported instead.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the user's input: where, what was found, what is allowed."""

    path: str
    found: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.path}: {self.found}; {self.allowed}"


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
        except (ImportError, AttributeError) as error:
            return Problem(path, f"cannot import {kind!r} ({error})", "give module:Class on the path")
    return Problem(
        path, f"unknown name {kind!r}", f"allowed: {', '.join(sorted(table))}, or module:Class"
    )


def parse(cls: type, raw: Any, path: str) -> tuple[Any, list[Problem]]:
    """Validate ``raw`` against the frozen dataclass ``cls``; unknown keys are refused."""
    if not is_dataclass(cls):
        raise AssertionError(f"{cls!r} is not a dataclass")
    if not hasattr(cls, "__pydantic_config__"):
        with_config(ConfigDict(extra="forbid"))(cls)
    try:
        return TypeAdapter(cls).validate_python(raw), []
    except ValidationError as error:
        return None, [_problem(path, item, cls) for item in error.errors()]


def _problem(path: str, item: Any, cls: type) -> Problem:
    place = ".".join([path, *(str(part) for part in item["loc"])]).strip(".")
    if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        names = ", ".join(sorted(getattr(cls, "__dataclass_fields__", {})))
        return Problem(place, "unknown key", f"allowed keys: {names}")
    if item["type"] == "missing":
        return Problem(place, "missing", "this key is required")
    return Problem(place, f"got {item['input']!r}", item["msg"])


def choose(table: Mapping[str, type], raw: Any, path: str) -> tuple[type | None, Any, list[Problem]]:
    """``raw`` (a section with ``kind``) -> (class, its Config, problems)."""
    if not isinstance(raw, Mapping):
        return None, None, [Problem(path, f"got {raw!r}", "must be a table with a kind")]
    found = lookup(table, raw.get("kind"), f"{path}.kind")
    if isinstance(found, Problem):
        return None, None, [found]
    config, problems = parse(found.Config, dict(raw), path)
    return found, config, problems


def build(table: Mapping[str, type], raw: Mapping[str, Any], *args: Any) -> Any:
    """Construct ``class(config, *args)`` from a section that was checked before."""
    cls, config, problems = choose(table, raw, "")
    if cls is None or problems:
        raise AssertionError(f"unchecked section {raw!r}: {[str(p) for p in problems]}")
    return cls(config, *args)


def first_line(cls: type) -> str:
    """The one-line description shown by ``growstage list``."""
    return (cls.__doc__ or "").strip().partition("\n")[0]
