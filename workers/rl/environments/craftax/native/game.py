"""What the native engine must know of a game: the layout of its memory, and its C functions.

Fields have the names that Craftax gives them, so states go from JAX to C++ and back by name.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
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
    own: str = ""
    """The field that Craftax's states do not have: zeros where all of a state is there."""
    ranges: dict[str, tuple[int, int]]
    """Least and largest value of fields that select something; others may be moderate numbers."""

    def functions(self) -> Functions:
        """Its C functions, checked against the layouts; builds the library if need be."""
        return _functions(self)


@dataclass(frozen=True, slots=True)
class Functions:
    """The C functions of one game."""

    renew: Callable[..., Any]
    step: Callable[..., int]
    complete: Callable[..., Any]
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
    # states, count
    "complete": (None, (_POINTER, _LONG)),
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
    _fill(states, tree, game.own)
    return states


def _first(game: Game) -> str:
    assert game.state.names is not None
    return game.state.names[0]


def _fill(into: NDArray[Any], tree: Any, own: str) -> None:
    for name in into.dtype.names or ():
        if name == own:
            continue
        value = getattr(tree, name)
        part = into[name]
        if part.dtype.names:
            _fill(part, value, own)
        else:
            into[name] = _packed(np.asarray(value), part.dtype)


def from_native(game: Game, states: NDArray[Any], like: Any) -> Any:
    """The states [N] as Craftax has them: a copy of ``like`` (batched) with all fields replaced."""
    new = {}
    for name in states.dtype.names or ():
        if name == game.own:
            continue
        part, old = states[name], getattr(like, name)
        if part.dtype.names:
            new[name] = from_native(game, part, old)
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


def check(game: Game, states: NDArray[Any]) -> None:
    """Raise ValueError where a state holds what none can, by which C++ would look things up."""
    if states.dtype != game.state or states.ndim != 1:
        raise ValueError(
            f"these are no states of the {game.name} game: type {states.dtype}, shape "
            f"{states.shape}; allowed: what a snapshot holds"
        )
    for path, values in _leaves(states, ""):
        least, most = _allowed(game, path, values.dtype)
        wrong = np.argwhere(~((values >= least) & (values <= most)))  # so that NaN is wrong
        if len(wrong):
            first, *place = wrong[0].tolist()
            raise ValueError(
                f"state {first}: {path}{place or ''} is {values[tuple(wrong[0])]}; "
                f"allowed: {least} to {most}"
            )


def _leaves(states: NDArray[Any], prefix: str) -> Iterator[tuple[str, NDArray[Any]]]:
    for name in states.dtype.names or ():
        part = states[name]
        if part.dtype.names:
            yield from _leaves(part, f"{prefix}{name}.")
        else:
            # A flag is a byte, which may hold more than 0 and 1.
            yield prefix + name, part.view(np.uint8) if part.dtype == np.bool_ else part


def _allowed(game: Game, path: str, kind: np.dtype[Any]) -> tuple[int, int]:
    if path in game.ranges:
        return game.ranges[path]
    if kind == np.uint8:
        return 0, 1
    return (0, int(np.iinfo(kind).max)) if kind.kind == "u" else (-_MODERATE, _MODERATE)


_MODERATE = 2**28
