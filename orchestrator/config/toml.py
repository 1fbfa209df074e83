"""Raw stream files written as TOML; reading them is ``config.file``'s."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from workers.contract import Json


def to_toml(raw: Json) -> str:
    """A raw stream file as TOML text: plain keys first, then a table for each section."""
    plain = [f"{_key(key)} = {_value(value)}" for key, value in raw.items() if not _table(value)]
    tables = [text for key, value in raw.items() for text in _tables(key, value) if _table(value)]
    return "\n".join(plain) + "\n" + "".join(tables)


def assigned(key: str, value: Any) -> str:
    """``key = value`` on one line."""
    return f"{_key(key)} = {_value(value)}"


def _tables(key: str, value: Any) -> list[str]:
    if isinstance(value, Mapping):
        body = "\n".join(f"{_key(name)} = {_value(item)}" for name, item in value.items())
        return [f"\n[{_key(key)}]\n{body}\n"]
    if _table(value):
        return [f"\n[[{_key(key)}]]\n" + _tables("", item)[0].split("\n", 2)[2] for item in value]
    return []


def _table(value: Any) -> bool:
    """Whether a value is a section, or a list of them."""
    entries = isinstance(value, list) and value and all(isinstance(x, Mapping) for x in value)
    return isinstance(value, Mapping) or bool(entries)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(name)} = {_value(item)}" for name, item in value.items())
        return f"{{ {inner} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    return json.dumps(value, ensure_ascii=False)  # strings, numbers and booleans are TOML too


def _key(name: str) -> str:
    """A key as TOML takes it: bare where it holds ASCII letters, digits, _ and - alone."""
    bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare else json.dumps(name, ensure_ascii=False)
