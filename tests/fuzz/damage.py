"""What is done to good bytes so that they become hostile: hypothesis draws it, so it shrinks."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

WORDS: tuple[bytes, ...] = (
    b"",
    b"\x00",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\n",
    b"\r\n",
    b"..",
    b"/",
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1e999",
    b"NaN",
    b"99999999999999999999999",
    b'""',
    b"[]",
    b"{}",
    b"\xed\xa0\x80",
    "\u202e".encode(),
    b"\x1b[2J",
    b"[" * 5000,
    b'{"a":' * 5000,
    b"os:path",
    b"pickle:loads",
    b"A" * 70000,
)
"""Texts that programs stumble over."""

VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    10**30,
    float("nan"),
    float("inf"),
    "",
    "..",
    "a/../../b",
    "\x00",
    "\ud800",
    "os:path",
    "json:",
    [],
    {},
    [[[]]],
    {"kind": "os:path"},
    "x" * 5000,
)
"""Values that stand where others are expected."""

OPERATIONS: tuple[str, ...] = ("cut", "drop", "flip", "put", "twice", "swap")


def damaged(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of the seeds after a few operations at drawn places, or bytes of no kind at all."""
    place = st.floats(0.0, 1.0, exclude_max=True)
    word = st.one_of(st.sampled_from(WORDS), st.binary(max_size=12))
    edits = st.lists(
        st.tuples(st.sampled_from(OPERATIONS), place, place, word), min_size=1, max_size=5
    )
    return st.one_of(
        st.tuples(st.sampled_from(list(seeds)), edits).map(lambda drawn: _edited(*drawn)),
        st.binary(max_size=64),
    )


def _edited(data: bytes, edits: Sequence[tuple[str, float, float, bytes]]) -> bytes:
    for what, first, second, word in edits:
        i, j = sorted((int(first * len(data)), int(second * len(data))))
        j = min(j, i + 256)
        data = _OPERATE[what](data, i, j, word)
    return data


_OPERATE: dict[str, Callable[[bytes, int, int, bytes], bytes]] = {
    "cut": lambda data, i, j, word: data[:i],
    "drop": lambda data, i, j, word: data[:i] + data[j:],
    "flip": lambda data, i, j, word: (
        data[:i] + bytes([data[i] ^ (1 << (j % 8))]) + data[i + 1 :] if data else data
    ),
    "put": lambda data, i, j, word: data[:i] + word + data[j:],
    "twice": lambda data, i, j, word: data[:j] + data[i:j] + data[j:],
    "swap": lambda data, i, j, word: data[:i] + word + data[i + len(word) :],
}


def distorted(seeds: Sequence[Any]) -> st.SearchStrategy[Any]:
    """One of these JSON values with some of its parts replaced, removed or added."""
    step = st.tuples(st.lists(st.integers(0, 40), max_size=8), st.sampled_from(VALUES))
    return st.tuples(st.sampled_from(list(seeds)), st.lists(step, min_size=1, max_size=3)).map(
        lambda drawn: _distorted(*drawn)
    )


def _distorted(value: Any, steps: Sequence[tuple[Sequence[int], Any]]) -> Any:
    whole: Any = {"whole": json.loads(json.dumps(value))}
    for path, new in steps:
        node, key = whole, "whole"
        for number in path:
            inside = node[key]
            keys = list(inside) if isinstance(inside, dict) else list(range(_length(inside)))
            if not keys:
                break
            node, key = inside, keys[number % len(keys)]
        if new is None and isinstance(node, dict) and node is not whole:
            del node[key]
        else:
            node[key] = copy.deepcopy(new)
    return whole["whole"]


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list) else 0
