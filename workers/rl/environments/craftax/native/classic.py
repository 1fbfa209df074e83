"""Craftax-Classic's memory: the same bytes as ``State`` and ``Task`` of classic/*.h."""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.rl.environments.craftax.catalog import CraftaxClassicSymbolic
from workers.rl.environments.craftax.native.game import Game

_ITEMS = (
    "wood", "stone", "coal", "iron", "diamond", "sapling", "wood_pickaxe", "stone_pickaxe",
    "iron_pickaxe", "wood_sword", "stone_sword", "iron_sword",
)  # fmt: skip
_FLOATS = ("spawn_cow_chance", "spawn_zombie_base_chance", "spawn_zombie_night_chance",
           "spawn_skeleton_chance")  # fmt: skip
_ACHIEVEMENTS = len(CraftaxClassicSymbolic.achievements)


def _mobs(count: int) -> np.dtype[Any]:
    return np.dtype(
        [
            ("position", "i4", (count, 2)),
            ("health", "i4", count),
            ("attack_cooldown", "i4", count),
            ("mask", "?", count),
        ],
        align=True,
    )


STATE = np.dtype(
    [
        ("map", "u1", (64, 64)),
        ("mob_map", "u8", 64),
        ("player_position", "i4", 2),
        ("player_direction", "i4"),
        *((f"player_{need}", "i4") for need in ("health", "food", "drink", "energy")),
        *((f"player_{need}", "f4") for need in ("recover", "hunger", "thirst", "fatigue")),
        ("inventory", np.dtype([(item, "i4") for item in _ITEMS])),
        ("zombies", _mobs(3)),
        ("cows", _mobs(3)),
        ("skeletons", _mobs(2)),
        ("arrows", _mobs(3)),
        ("arrow_directions", "i4", (3, 2)),
        ("growing_plants_positions", "i4", (10, 2)),
        ("growing_plants_age", "i4", 10),
        ("growing_plants_mask", "?", 10),
        ("achievements", "?", _ACHIEVEMENTS),
        ("is_sleeping", "?"),
        ("light_level", "f4"),
        ("timestep", "i4"),
        ("state_rng", "u4", 2),
    ],
    align=True,
)
_PARAMS = np.dtype(
    [(name, "f4" if name in _FLOATS else "i4") for name in CraftaxClassicSymbolic.params]
)
TASK = np.dtype([("params", _PARAMS), ("weights", "f4", _ACHIEVEMENTS), ("health", "f4")])
CLASSIC = Game(
    name="classic",
    state=STATE,
    task=TASK,
    ranges={"map": (0, 16), "player_direction": (0, 4)},
)
