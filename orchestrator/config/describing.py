"""What an entry of a table may be given: every key with type, default, allowed values, sentence.

All of it is asked of the entry's Config: types and defaults of its fields, the text below each, and
which numbers it takes. Knows entries from outside as well as those of the tables.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass
from functools import cache
from typing import Any

from orchestrator.config import catalogue
from workers.contract import InputError
from workers.parsing import parse
from workers.tables import Problem, first_line, lookup, resolved


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of an entry's table."""

    name: str
    type: str
    default: str
    """As TOML; ``required``, or ``none`` where it is left out."""
    allowed: str
    """Bounds of a number, or the texts it may be; empty where the type says it all."""
    text: str
    """What it means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of a table."""

    name: str
    text: str
    """Its class's first line."""
    keys: tuple[Key, ...]


def entry(name: str) -> Entry:
    """The entry ``TABLE.NAME``, or one from outside: ``module:Class``.

    Raises InputError where there is none.
    """
    if ":" in name:
        found: Any = lookup({}, name, "entry")
    else:
        table, _, kind = name.partition(".")
        tables = catalogue.entries()
        if table not in tables:
            raise InputError(f"no table {table!r}; allowed: {', '.join(tables)}, or module:Class")
        found = lookup(tables[table], kind, f"entry of {table}")
    if isinstance(found, Problem):
        raise InputError(str(found))
    config = getattr(found, "Config", found)
    if not is_dataclass(config):
        raise InputError(f"{name}: takes no settings; give an entry with a Config")
    return Entry(name=name, text=first_line(found), keys=tuple(keys(config)))


def keys(config: Any) -> Iterator[Key]:
    """Every key of a Config, ``kind`` apart."""
    texts, hints = documented(config), typing.get_type_hints(config)
    for item in fields(config):
        if item.name == "kind":
            continue
        yield Key(
            name=item.name,
            type=_type(item, hints[item.name]),
            default=_default(item),
            allowed=_allowed(config, item, hints[item.name]),
            text=" ".join(texts.get(item.name, "").split()).replace("None =", "left out ="),
        )


def documented(config: type) -> dict[str, str]:
    """Field -> the text below it, those of base classes included."""
    found: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        if is_dataclass(cls):
            found |= _texts(cls)
    return found


@cache
def _texts(cls: type) -> dict[str, str]:
    """The texts below a class's own fields; none where its source is not at hand."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        return {}
    (body,) = (node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    found = {}
    for field, below in itertools.pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found[field.target.id] = below.value.value
    return found


# ---------------------------------------------------------------- types and defaults

NAMES = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "none"}
"""Type -> what people call it."""


def _type(item: Field[Any], hint: Any) -> str:
    """What a value is: ``entry of heads``, ``list of text``, ``number or none``."""
    table = item.metadata.get("table")
    if table is not None:
        named = f"entry of {table_name(resolved(table))}"
        return f"list of {named}" if item.metadata.get("many") else named
    return _named(hint)


def _named(hint: Any) -> str:
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if hint in NAMES:
        return NAMES[hint]
    if origin is typing.Literal:
        return "text" if all(isinstance(value, str) for value in inside) else "value"
    if origin in (list, tuple) or hint in (list, tuple):
        kinds = dict.fromkeys(_named(one) for one in inside if one is not Ellipsis)
        return f"list of {' or '.join(kinds)}" if kinds else "list"
    if origin is dict or hint is dict or is_dataclass(hint):
        return "table"
    if inside and origin not in (typing.Annotated,):
        return " or ".join(dict.fromkeys(_named(one) for one in inside))
    return _named(inside[0]) if inside else "value"


def table_name(table: Mapping[str, type]) -> str:
    """What ``growstage list`` calls a table; its entries where it is none of those."""
    for name, known in catalogue.entries().items():
        if known is table or dict(known) == dict(table):
            return name
    return " or ".join(table)


def _default(item: Field[Any]) -> str:
    from orchestrator.config.toml import to_toml

    if item.default is MISSING and item.default_factory is MISSING:
        return "required"
    made = item.default_factory
    value: Any = item.default if made is MISSING else made()
    if hasattr(value, "kind"):
        return to_toml({"x": value.kind}).strip().removeprefix("x = ")
    if value is None:
        return "none"
    plain = _plain(value)
    if isinstance(plain, Mapping):
        return ", ".join(f"{key} = {inner}" for key, inner in plain.items()) or "{}"
    return to_toml({"x": plain}).strip().removeprefix("x = ")


def _plain(value: Any) -> Any:
    """A default as TOML can hold it."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: inner for name, inner in asdict(value).items() if inner is not None}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


# ---------------------------------------------------------------- allowed values

ENDS = (-1.0, 0.0, 0.5, 1.0, 2.0)
"""Numbers that a Config is asked about, to learn between which it takes some."""


def _allowed(config: Any, item: Field[Any], hint: Any) -> str:
    inside = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(map(str, inside))
    table = item.metadata.get("table")
    if table is not None:
        return ""
    literals = [one for one in inside if typing.get_origin(one) is typing.Literal]
    if literals:
        return ", ".join(str(value) for one in literals for value in typing.get_args(one))
    kinds = {hint, *inside}
    if int in kinds or float in kinds:
        return _bounds(lambda value: _takes(config, item.name, value), float in kinds)
    return ""


def _takes(config: Any, name: str, value: float) -> bool | None:
    """Whether a Config takes a number for a key; None where it takes none at all, as it needs
    other keys too."""
    _, problems = parse(config, {**_needed(config), name: value}, "")
    return not problems


def _needed(config: Any) -> dict[str, Any]:
    """Values for the keys that a Config cannot be without."""
    sample = {int: 1, float: 0.5, str: "x", bool: True}
    hints = typing.get_type_hints(config)
    return {
        item.name: sample.get(hints[item.name], [])
        for item in fields(config)
        if item.default is MISSING and item.default_factory is MISSING
    }


def _bounds(takes: Callable[[float], bool | None], fractions: bool) -> str:
    """Bounds in words, from what is taken of ENDS; empty where all of them are, or none is."""
    asked = [value for value in ENDS if fractions or value.is_integer()]
    taken = [value for value in asked if takes(value if fractions else int(value))]
    if not taken or taken == asked:
        return ""
    low, high = taken[0], taken[-1]
    least = {0.0: "at least 0", 0.5: "above 0", 1.0: "at least 1", 2.0: "at least 2"}
    most = {0.5: "below 1", 1.0: "at most 1", 0.0: "at most 0"}
    found = [least.get(low, ""), most.get(high, "")]
    return " and ".join(text for text in found if text)
