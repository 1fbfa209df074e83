"""What the native engine must know of a game: the layout of its memory, and its C functions.

Fields have the names that Craftax gives them, so states go from JAX to C++ and back by name.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.rl.environments.craftax.native import library


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Game:
    """One of the two games."""

    name: str
    """Its C functions are ``craftax_<name>_*``."""
    state: np.dtype[Any]
    """Structured type of one game's state, the C++ ``State``."""
    task: np.dtype[Any]
    """Structured type of a task, the C++ ``Task``."""

    def functions(self) -> Functions:
        """Its C functions, checked against the layouts; builds the library if need be."""
        return _functions(self)


@dataclass(frozen=True, slots=True)
class Functions:
    """The C functions of one game."""

    renew: Callable[..., Any]
    step: Callable[..., int]
    observe: Callable[..., Any]


_POINTER, _LONG, _UNSIGNED, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint32, ctypes.c_int32
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    # states, indices, count, key, first, task, dense, compact
    "renew": (
        None,
        (_POINTER, _POINTER, _LONG, _POINTER, _UNSIGNED, _POINTER, _POINTER, _POINTER),
    ),
    # states, count, key, at, actions, task, renews, rewards, done, unlocked, dense, compact
    "step": (
        _LONG,
        (_POINTER, _LONG, _POINTER, _UNSIGNED, *2 * (_POINTER,), _INT, *5 * (_POINTER,)),
    ),
    # states, count, dense, compact
    "observe": (None, (_POINTER, _LONG, _POINTER, _POINTER)),
    "state_size": (_LONG, ()),
    "task_size": (_LONG, ()),
}


@cache
def _functions(game: Game) -> Functions:
    loaded = library.require()
    found: dict[str, Any] = {}
    for what, (result, arguments) in _SIGNATURES.items():
        function = getattr(loaded, f"craftax_{game.name}_{what}")
        function.restype, function.argtypes = result, arguments
        found[what] = function
    for size, described in (("state_size", game.state), ("task_size", game.task)):
        actual = found.pop(size)()
        assert actual == described.itemsize, (game.name, size, actual, described.itemsize)
    return Functions(**found)


def to_native(game: Game, tree: Any) -> NDArray[Any]:
    """States as Craftax has them, batched [N, ...], as an array of the game's own [N]."""
    states = np.zeros(len(np.asarray(getattr(tree, _first(game)))), game.state)
    _fill(states, tree)
    return states


def _first(game: Game) -> str:
    assert game.state.names is not None
    return game.state.names[0]


def _fill(into: NDArray[Any], tree: Any) -> None:
    for name in into.dtype.names or ():
        value = getattr(tree, name)
        if into.dtype[name].names:
            _fill(into[name], value)
        else:
            into[name] = _packed(np.asarray(value), into[name].dtype)


def from_native(states: NDArray[Any], like: Any) -> Any:
    """The states [N] as Craftax has them: a copy of ``like`` (batched) with all fields replaced."""
    new = {}
    for name in states.dtype.names or ():
        part, old = states[name], getattr(like, name)
        if part.dtype.names:
            new[name] = from_native(part, old)
        else:
            was = np.asarray(old)
            part = _unpacked(part) if was.ndim > part.ndim else part
            new[name] = part.astype(was.dtype)
    return like.replace(**new)


def _packed(value: NDArray[Any], wanted: np.dtype[Any]) -> NDArray[Any]:
    """Rows of 64 flags as words of 64 bits, where words are wanted."""
    if wanted != np.uint64:
        return value
    return np.packbits(value, axis=-1, bitorder="little").view("<u8")[..., 0]


def _unpacked(words: NDArray[Any]) -> NDArray[np.bool_]:
    """Words of 64 bits as rows of 64 flags."""
    flags = np.unpackbits(
        np.ascontiguousarray(words)[..., None].view("u1"), axis=-1, bitorder="little"
    )
    return flags.astype(np.bool_)
