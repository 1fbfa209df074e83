"""States of Craftax games that play seldom reaches, and what two states differ in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def differing(one: NDArray[Any], other: NDArray[Any], prefix: str = "") -> Iterator[str]:
    """Names of the fields in which two arrays of states are not the same to the bit."""
    for name in one.dtype.names or ():
        a, b = one[name], other[name]
        if a.dtype.names:
            yield from differing(a, b, f"{prefix}{name}.")
        elif np.ascontiguousarray(a).tobytes() != np.ascontiguousarray(b).tobytes():
            yield f"{prefix}{name}"


def scrambled_classic(states: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Classic states [N] with all that a step looks at drawn anew around the player."""
    states = states.copy()
    count = len(states)
    inside = rng.integers(0, 64, (count, 2))
    edge = rng.choice([0, 1, 62, 63], (count, 2))
    states["player_position"] = np.where(rng.random((count, 1)) < 0.3, edge, inside)
    _scramble_maps(states, rng)
    states["player_direction"] = rng.integers(1, 5, count)
    for need in ("health", "food", "drink", "energy"):
        states[f"player_{need}"] = rng.integers(need == "health", 10, count)
    for need, least, most in (("recover", -16, 26), ("hunger", 0, 26), ("thirst", 0, 21)):
        states[f"player_{need}"] = rng.integers(2 * least, 2 * most, count) / 2
    states["player_fatigue"] = rng.integers(-11, 31, count)
    for item in states["inventory"].dtype.names:
        states["inventory"][item] = rng.integers(0, 10, count) * (rng.random(count) < 0.6)
    states["mob_map"] = 0
    for kind in ("zombies", "cows", "skeletons", "arrows"):
        _scramble_mobs(states, kind, rng)
    ways = np.array([[0, -1], [0, 1], [-1, 0], [1, 0], [1, 1]])
    states["arrow_directions"] = ways[rng.integers(0, 5, (count, 3))]
    _scramble_plants(states, rng)
    states["achievements"] = rng.random((count, 22)) < 0.5
    states["is_sleeping"] = rng.random(count) < 0.2
    states["light_level"] = rng.random(count, np.float32)
    states["timestep"] = rng.integers(0, 10000, count)
    return states


def _near(states: NDArray[Any], number: int, reach: int, rng: np.random.Generator) -> Any:
    """Places around each player [N, number, 2], inside the world."""
    offset = rng.integers(-reach, reach + 1, (len(states), number, 2))
    return np.clip(states["player_position"][:, None] + offset, 0, 63)


def _scramble_maps(states: NDArray[Any], rng: np.random.Generator) -> None:
    for state in states:
        row, column = state["player_position"]
        if rng.random() < 0.8:
            square = state["map"][max(0, row - 6) : row + 7, max(0, column - 6) : column + 7]
            kinds = rng.choice(np.arange(2, 17), 4 if rng.random() < 0.5 else 15)
            square[:] = rng.choice(kinds, square.shape)
        state["map"][row, column] = rng.choice([2, 7, 13])


def _scramble_mobs(states: NDArray[Any], kind: str, rng: np.random.Generator) -> None:
    mobs = states[kind]
    count, number = mobs["mask"].shape
    mobs["position"] = _near(states, number, int(rng.choice([1, 3, 8])), rng)
    mobs["health"] = rng.integers(0, 6, (count, number))
    mobs["attack_cooldown"] = rng.integers(-2, 5, (count, number))
    mobs["mask"] = rng.random((count, number)) < 0.7
    if kind != "arrows":
        for state in states:
            for row, column in state[kind]["position"][state[kind]["mask"]]:
                state["mob_map"][row] |= np.uint64(1) << np.uint64(column)


def _scramble_plants(states: NDArray[Any], rng: np.random.Generator) -> None:
    count = len(states)
    states["growing_plants_positions"] = _near(states, 10, 4, rng)
    states["growing_plants_age"] = rng.choice([0, 5, 598, 599, 600, 700], (count, 10))
    states["growing_plants_mask"] = rng.random((count, 10)) < 0.5
    for state in states:
        grows = state["growing_plants_positions"][state["growing_plants_mask"]]
        state["map"][grows[:, 0], grows[:, 1]] = 15
