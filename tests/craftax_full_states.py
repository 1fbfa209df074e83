"""States of the full game that play seldom reaches: every floor, all creatures and belongings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE, FLOORS = 48, 9
WALKABLE = (2, 7, 13, 25, 26)
"""Blocks that one can stand on."""
COMMON = (2, 4, 7, 17, 18, 25, 26)
MELEE, PASSIVE = (0, 2, 1, 3, 4, 5, 6, 7, 0), (0, 2, 1, 2, 2, 1, 1, 1, 0)
"""The kinds of creatures of each floor."""
WAYS = np.array([(0, -1), (0, 1), (-1, 0), (1, 0)])
_STOCKS = ("wood", "stone", "coal", "iron", "diamond", "sapling", "arrows", "torches", "ruby",
           "sapphire")  # fmt: skip
_CRAFTING = (*range(11, 17), *range(20, 24), 25, 38)
PURPOSES = {
    2: (5, 8, 10, 28), 3: (5, 7), 5: (5,), 7: (7, 8, 9, 28), 10: (5,), 11: _CRAFTING, 12: _CRAFTING,
    16: (5,), 21: (5,), 22: (5,), 23: (5,), 24: (5,), 28: (5,), 30: (36, 37, 42), 31: (36, 37, 42),
    32: (5,),
}  # fmt: skip
"""What is worth doing before a block."""


def purposeful(states: NDArray[Any], rng: np.random.Generator) -> NDArray[np.int64]:
    """Actions [N]: any, a move or a blow, or what the block before the player is there for."""
    actions = rng.integers(0, 43, len(states))
    actions = np.where(rng.random(len(states)) < 0.4, rng.integers(1, 6, len(states)), actions)
    for index, state in enumerate(states):
        worth = PURPOSES.get(int(state["map"][(state["player_level"], *_front(state))]))
        if worth and rng.random() < 0.6:
            actions[index] = rng.choice(worth)
    return actions


def _front(state: Any) -> NDArray[Any]:
    way = WAYS[max(int(state["player_direction"]) - 1, 0)]
    return np.clip(state["player_position"] + way, 0, SIDE - 1)


def scrambled(states: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """The states [N] with all that a step looks at drawn anew; a quarter are only moved."""
    states = states.copy()
    for state in states:
        _move(state, rng)
        if rng.random() < 0.75:
            _belongings(state, rng)
            _body(state, rng)
            _progress(state, rng)
            _creatures(state, rng)
            _projectiles(state, rng)
            _plants(state, rng)
            _surroundings(state, rng)
    return states


def _near(state: Any, reach: int, rng: np.random.Generator) -> NDArray[Any]:
    return np.clip(state["player_position"] + rng.integers(-reach, reach + 1, 2), 0, SIDE - 1)


def _move(state: Any, rng: np.random.Generator) -> None:
    """To a floor, there to a ladder, an edge, before a block of some kind, or anywhere."""
    floor = state["player_level"] = int(rng.integers(FLOORS))
    way = int(rng.integers(4))
    state["player_direction"] = way + 1
    blocks = state["map"][floor]
    free = np.argwhere(np.isin(blocks, WALKABLE))
    place = free[rng.integers(len(free))] if len(free) else np.array([24, 24])
    rare = np.argwhere(~np.isin(blocks, COMMON))
    choice = int(rng.integers(6))
    if choice < 2:
        place = state[("up_ladders", "down_ladders")[choice]][floor]
    elif choice == 2:
        place = np.where(rng.permutation([True, False]), rng.choice([0, 1, 46, 47], 2), place)
    elif choice < 5 and len(rare):
        kind = rng.choice(np.unique(blocks[tuple(rare.T)]))
        found = rare[blocks[tuple(rare.T)] == kind]
        before = found[rng.integers(len(found))] - WAYS[way]
        if ((before >= 0) & (before < SIDE)).all():
            place = before
    state["player_position"] = place


def _belongings(state: Any, rng: np.random.Generator) -> None:
    own = state["inventory"]
    for stock in _STOCKS:
        own[stock] = rng.choice([0, 1, 2, 3, 5, 20, 98, 99])
    own["pickaxe"], own["sword"] = rng.integers(0, 5, 2)
    own["bow"], own["books"] = rng.integers(0, 2), rng.integers(0, 3)
    own["armour"] = rng.integers(0, 3, 4) * (rng.random() < 0.7)
    own["potions"] = rng.integers(0, 3, 6)
    state["sword_enchantment"], state["bow_enchantment"] = rng.integers(0, 3, 2)
    one = rng.random() < 0.3
    state["armour_enchantments"] = rng.integers(0, 3) if one else rng.integers(0, 3, 4)
    state["learned_spells"] = rng.random(2) < 0.5


def _body(state: Any, rng: np.random.Generator) -> None:
    state["player_health"] = rng.choice([9.0, 1.0, 2.5, 4.3, 7.9, 13.0, 0.3])
    for need in ("food", "drink", "energy"):
        state[f"player_{need}"] = rng.integers(0, 10) * (rng.random() < 0.7)
    state["player_mana"] = rng.integers(0, 16)
    for attribute in ("dexterity", "strength", "intelligence"):
        state[f"player_{attribute}"] = rng.integers(1, 6)
    state["player_xp"] = rng.integers(0, 4)
    state["player_hunger"] = rng.choice([0, 24.5, 25, 24.875])
    state["player_thirst"] = rng.choice([0, 19.5, 20, 18.625])
    state["player_fatigue"] = rng.choice([0, -10, -9, 29.5, 30])
    state["player_recover"] = rng.choice([0, 24, 25, -14.5, -15])
    state["player_recover_mana"] = rng.choice([0, 25, 29, 30, 12.34])
    state["is_sleeping"], state["is_resting"] = rng.random(2) < 0.15


def _progress(state: Any, rng: np.random.Generator) -> None:
    state["monsters_killed"] = rng.integers(0, 11, FLOORS)
    state["chests_opened"] = rng.random(FLOORS) < 0.3
    state["achievements"] = rng.random(67) < 0.3
    state["boss_progress"] = rng.integers(0, 9)
    state["boss_timesteps_to_spawn_this_round"] = rng.integers(-3, 8)
    state["timestep"] = rng.choice([0, 140, 250, 299, 5000, 99990, rng.integers(0, 30000)])
    state["light_level"] = rng.random()


def _creatures(state: Any, rng: np.random.Generator) -> None:
    floor = state["player_level"]
    taken = np.zeros((SIDE, SIDE), bool)
    taken[tuple(np.clip(state["player_position"], 0, SIDE - 1))] = True
    for group, kinds, most in (
        ("melee_mobs", MELEE, 8), ("passive_mobs", PASSIVE, 3), ("ranged_mobs", MELEE, 8),
    ):  # fmt: skip
        mobs = state[group]
        for slot in range(mobs["mask"].shape[1]):
            place = _near(state, int(rng.choice([1, 3, 6, 12])), rng)
            alive = rng.random() < 0.7 and not taken[tuple(place)]
            taken[tuple(place)] |= alive
            mobs["position"][floor, slot], mobs["mask"][floor, slot] = place, alive
            own = rng.random() < 0.6
            mobs["type_id"][floor, slot] = kinds[floor] if own else rng.integers(most)
            mobs["health"][floor, slot] = rng.choice([1, 2.5, 3, 5, 9, 20, 0.7])
            mobs["attack_cooldown"][floor, slot] = rng.integers(-2, 6)
    taken[tuple(np.clip(state["player_position"], 0, SIDE - 1))] = False
    state["mob_map"][floor] = taken


def _projectiles(state: Any, rng: np.random.Generator) -> None:
    floor = state["player_level"]
    for group in ("mob_projectile", "player_projectile"):
        flying = state[f"{group}s"]
        for slot in range(3):
            lost = rng.random() < 0.1
            place = rng.integers(-60, 100, 2) if lost else _near(state, 3, rng)
            flying["position"][floor, slot] = place
            flying["mask"][floor, slot] = rng.random() < 0.6
            flying["type_id"][floor, slot] = rng.integers(8)
            straight = rng.random() < 0.9
            way = WAYS[rng.integers(4)] if straight else (1, 1)
            state[f"{group}_directions"][floor, slot] = way


def _plants(state: Any, rng: np.random.Generator) -> None:
    for plant in np.flatnonzero(rng.random(10) < 0.5):
        place = _near(state, 3, rng)
        state["growing_plants_positions"][plant] = place
        state["growing_plants_mask"][plant] = rng.random() < 0.8
        state["growing_plants_age"][plant] = rng.choice([0, 590, 598, 599, 300])
        if rng.random() < 0.7:
            state["map"][(0, *place)] = rng.choice([15, 16])


def _surroundings(state: Any, rng: np.random.Generator) -> None:
    floor = state["player_level"]
    for block in (11, 12, *rng.integers(2, 37, 3)):
        place = _near(state, 1, rng)
        if rng.random() < 0.45 and (place != state["player_position"]).any():
            state["map"][(floor, *place)] = block
    if rng.random() < 0.5:
        front = _front(state)
        state["map"][(floor, *front)] = rng.choice(list(PURPOSES))
        state["item_map"][(floor, *front)] = 0
        if rng.random() < 0.7:
            _clear(state)
    for _ in range(3):
        if rng.random() < 0.3:
            state["item_map"][(floor, *_near(state, 2, rng))] = rng.integers(0, 4)


def _clear(state: Any) -> None:
    """No creature is about, and the boss can be hurt."""
    floor = state["player_level"]
    for group in ("melee_mobs", "passive_mobs", "ranged_mobs"):
        state[group]["mask"][floor] = False
    state["mob_map"][floor] = False
    state["boss_timesteps_to_spawn_this_round"] = min(
        0, state["boss_timesteps_to_spawn_this_round"]
    )
