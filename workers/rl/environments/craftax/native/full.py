"""The full game's memory: the same bytes as ``State`` and ``Task`` of full/*.h."""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.rl.environments.craftax.catalog import CraftaxSymbolic
from workers.rl.environments.craftax.native.game import Game

_FLOORS, _PLANTS, _SIDE = len(CraftaxSymbolic.floors), 10, 48
_ACHIEVEMENTS = len(CraftaxSymbolic.achievements)
_INVENTORY = np.dtype(
    [
        *(
            (item, "i4")
            for item in (
                "wood", "stone", "coal", "iron", "diamond", "sapling", "pickaxe", "sword", "bow",
                "arrows",
            )
        ),
        ("armour", "i4", 4),
        *((item, "i4") for item in ("torches", "ruby", "sapphire")),
        ("potions", "i4", 6),
        ("books", "i4"),
    ]
)  # fmt: skip


def _mobs(count: int) -> tuple[np.dtype[Any], int]:
    floor = np.dtype(
        [
            ("position", "i4", (count, 2)),
            ("health", "f4", count),
            ("mask", "?", count),
            ("attack_cooldown", "i4", count),
            ("type_id", "i4", count),
        ],
        align=True,
    )
    return floor, _FLOORS


STATE = np.dtype(
    [
        ("player_position", "i4", 2),
        ("player_level", "i4"),
        ("player_direction", "i4"),
        ("player_health", "f4"),
        *((f"player_{need}", "i4") for need in ("food", "drink", "energy", "mana")),
        ("is_sleeping", "?"),
        ("is_resting", "?"),
        *(
            (f"player_{counter}", "f4")
            for counter in ("recover", "hunger", "thirst", "fatigue", "recover_mana")
        ),
        *(
            (f"player_{attribute}", "i4")
            for attribute in ("xp", "dexterity", "strength", "intelligence")
        ),
        ("inventory", _INVENTORY),
        ("sword_enchantment", "i4"),
        ("bow_enchantment", "i4"),
        ("armour_enchantments", "i4", 4),
        ("potion_mapping", "i4", 6),
        ("learned_spells", "?", 2),
        ("boss_progress", "i4"),
        ("boss_timesteps_to_spawn_this_round", "i4"),
        ("light_level", "f4"),
        ("timestep", "i4"),
        ("state_rng", "u4", 2),
        ("achievements", "?", _ACHIEVEMENTS),
        ("chests_opened", "?", _FLOORS),
        ("monsters_killed", "i4", _FLOORS),
        ("unmade", np.dtype([("floors", "u4"), ("key", "u4", 2), ("always_diamond", "i4")])),
        ("down_ladders", "i4", (_FLOORS, 2)),
        ("up_ladders", "i4", (_FLOORS, 2)),
        ("melee_mobs", *_mobs(3)),
        ("passive_mobs", *_mobs(3)),
        ("ranged_mobs", *_mobs(2)),
        ("mob_projectiles", *_mobs(3)),
        ("mob_projectile_directions", "i4", (_FLOORS, 3, 2)),
        ("player_projectiles", *_mobs(3)),
        ("player_projectile_directions", "i4", (_FLOORS, 3, 2)),
        ("growing_plants_positions", "i4", (_PLANTS, 2)),
        ("growing_plants_age", "i4", _PLANTS),
        ("growing_plants_mask", "?", _PLANTS),
        ("map", "u1", (_FLOORS, _SIDE, _SIDE)),
        ("item_map", "u1", (_FLOORS, _SIDE, _SIDE)),
        ("mob_map", "?", (_FLOORS, _SIDE, _SIDE)),
        ("light_map", "f4", (_FLOORS, _SIDE, _SIDE)),
    ],
    align=True,
)
TASK = np.dtype(
    [
        ("params", np.dtype([(name, "i4") for name in CraftaxSymbolic.params])),
        ("weights", "f4", _ACHIEVEMENTS),
        ("health", "f4"),
        ("floor", "i4"),
        ("unlocked", "?", _ACHIEVEMENTS),
    ],
    align=True,
)
_KINDS = (0, 7)
FULL = Game(
    name="full",
    state=STATE,
    task=TASK,
    own="unmade",
    ranges={
        "player_level": (0, _FLOORS - 1),
        "player_direction": (0, 4),
        "inventory.sword": (0, 4),
        "potion_mapping": (0, 5),
        "unmade.floors": (0, 0),
        "melee_mobs.type_id": _KINDS,
        "passive_mobs.type_id": _KINDS,
        "ranged_mobs.type_id": _KINDS,
        "mob_projectiles.type_id": _KINDS,
        "player_projectiles.type_id": _KINDS,
        "map": (0, 36),
        "item_map": (0, 4),
    },
)
