"""The door: raw config sections become frozen configs, and every mistake becomes a Problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from workers.tables import Problem, lookup, resolved


def parse(cls: type, raw: Mapping[str, Any], path: str) -> tuple[Any, list[Problem]]:
    """Validate ``raw`` against the frozen dataclass ``cls``; unknown keys are refused.

    Returns the config, or None with every problem found, nested choices included.
    """
    values, problems = dict(raw), []
    for item in fields(cls):
        table = item.metadata.get("table")
        if table is not None and item.name in values:
            values[item.name] = _with_default_kind(item, values[item.name])
            pick = _choose_many if item.metadata.get("many") else choose
            *_, values[item.name], more = pick(
                resolved(table), values[item.name], _join(path, item.name)
            )
            problems += more
    try:
        config = _adapter(cls).validate_python(values)
    except ValidationError as error:
        problems += [_problem(path, item, cls) for item in error.errors()]
    return (None, problems) if problems else (config, [])


def _with_default_kind(item: Field[Any], raw: Any) -> Any:
    """A table without ``kind`` is one of the kind that the field holds where it is absent."""
    made = item.default_factory
    if not isinstance(raw, Mapping) or "kind" in raw or made is MISSING:
        return raw
    return {"kind": made().kind, **raw}


def _choose_many(
    table: Mapping[str, type], raw: Any, path: str
) -> tuple[tuple[Any, ...], list[Problem]]:
    """A list of sections -> (their Configs, problems)."""
    if isinstance(raw, str) or not isinstance(raw, Sequence):
        allowed = "must be a list of tables with a kind, or of names"
        return (), [Problem(path, f"got {raw!r}", allowed)]
    found = [choose(table, entry, f"{path}[{i}]")[1:] for i, entry in enumerate(raw)]
    return tuple(config for config, _ in found), [p for _, problems in found for p in problems]


def choose(
    table: Mapping[str, type], raw: Any, path: str
) -> tuple[type | None, Any, list[Problem]]:
    """``raw`` (a section with ``kind``, or just the name) -> (class, its Config, problems)."""
    if isinstance(raw, str):
        raw = {"kind": raw}
    if not isinstance(raw, Mapping):
        return None, None, [Problem(path, f"got {raw!r}", "must be a table with a kind, or a name")]
    if "kind" not in raw:
        names = ", ".join(sorted(table))
        return None, None, [Problem(_join(path, "kind"), "missing", f"allowed: {names}")]
    found = lookup(table, raw["kind"], _join(path, "kind"))
    if isinstance(found, Problem):
        return None, None, [found]
    if not is_dataclass(getattr(found, "Config", None)):
        allowed = "the class needs a nested frozen dataclass Config"
        return None, None, [Problem(_join(path, "kind"), f"{raw['kind']!r} has none", allowed)]
    config, problems = parse(found.Config, raw, path)  # type: ignore[attr-defined]
    return found, config, problems


def checked(table: Mapping[str, type], raw: Mapping[str, Any]) -> tuple[type, Any]:
    """(class, Config) of a section that passed the door before, e.g. from a LaneSpec."""
    cls, config, problems = choose(table, raw, "")
    assert cls is not None
    assert not problems, [str(problem) for problem in problems]
    return cls, config


@cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    """Validates values against a frozen dataclass; built once, which takes milliseconds."""
    assert is_dataclass(cls), f"{cls!r} is not a dataclass"
    if not hasattr(cls, "__pydantic_config__"):
        with_config(ConfigDict(extra="forbid", allow_inf_nan=False))(cls)
    return TypeAdapter(cls)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _problem(path: str, item: Any, cls: type) -> Problem:
    place = ".".join([path, *(str(part) for part in item["loc"])]).strip(".")
    if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        names = ", ".join(sorted(f.name for f in fields(cls)))
        return Problem(place, "unknown key", f"allowed keys: {names}")
    if item["type"] == "missing":
        return Problem(place, "missing", "this key is required")
    return Problem(place, f"got {item['input']!r}", item["msg"])
