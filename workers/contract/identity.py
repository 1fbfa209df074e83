"""Digests and seeds: what makes equal things equal and random things repeatable."""

from __future__ import annotations

import hashlib
import json
from typing import Any

Json = Any
"""A value that JSON can hold: dict with string keys, list, str, int, float, bool or None."""


def digest(value: Json) -> str:
    """SHA-256 (16 hex digits) of a JSON value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def derive_seed(*parts: Json) -> int:
    """A 31-bit seed that depends on every part: (run seed, stage, edit number)."""
    return int(digest(list(parts)), 16) % (2**31 - 1)
