"""What is known of each Craftax environment without importing JAX: names, sizes, achievements.

Craftax: Matthews et al. 2024, arXiv 2402.16801. Knows no task and compiles nothing; the engine
that runs these environments is ``workers.rl.environments.craftax.engine``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from workers.compact_layout import Compact
from workers.rl.environments.base import Environment
from workers.rl.environments.craftax import compact

if TYPE_CHECKING:
    from workers.rl.environments.base import BatchedEnvironment

Number = int | float | bool

_BASIC = (
    "collect_wood", "place_table", "eat_cow", "collect_sapling", "collect_drink",
    "make_wood_pickaxe", "make_wood_sword", "place_plant", "defeat_zombie", "collect_stone",
    "place_stone", "eat_plant", "defeat_skeleton", "make_stone_pickaxe", "make_stone_sword",
    "wake_up", "place_furnace", "collect_coal", "collect_iron", "collect_diamond",
    "make_iron_pickaxe", "make_iron_sword",
)  # fmt: skip
_FULL = (
    *_BASIC,
    "make_arrow", "make_torch", "place_torch", "make_diamond_sword", "make_iron_armour",
    "make_diamond_armour", "enter_gnomish_mines", "enter_dungeon", "enter_sewers", "enter_vault",
    "enter_troll_mines", "enter_fire_realm", "enter_ice_realm", "enter_graveyard",
    "defeat_gnome_warrior", "defeat_gnome_archer", "defeat_orc_solider", "defeat_orc_mage",
    "defeat_lizard", "defeat_kobold", "defeat_troll", "defeat_deep_thing", "defeat_pigman",
    "defeat_fire_elemental", "defeat_frost_troll", "defeat_ice_elemental", "damage_necromancer",
    "defeat_necromancer", "eat_bat", "eat_snail", "find_bow", "fire_bow", "collect_sapphire",
    "learn_fireball", "cast_fireball", "learn_iceball", "cast_iceball", "collect_ruby",
    "make_diamond_pickaxe", "open_chest", "drink_potion", "enchant_sword", "enchant_armour",
    "defeat_knight", "defeat_archer",
)  # fmt: skip
_INTERMEDIATE = (
    "collect_sapphire", "collect_ruby", "make_diamond_pickaxe", "make_diamond_sword",
    "make_iron_armour", "make_diamond_armour", "enter_gnomish_mines", "enter_dungeon",
    "defeat_gnome_warrior", "defeat_gnome_archer", "defeat_orc_solider", "defeat_orc_mage",
    "eat_bat", "eat_snail", "find_bow", "fire_bow", "open_chest", "drink_potion",
)  # fmt: skip
_VERY_ADVANCED = (
    "enter_fire_realm", "enter_ice_realm", "enter_graveyard", "defeat_pigman",
    "defeat_fire_elemental", "defeat_frost_troll", "defeat_ice_elemental", "damage_necromancer",
    "defeat_necromancer",
)  # fmt: skip
_FLOORS = (
    "overworld", "dungeon", "gnomish_mines", "sewers", "vault", "troll_mines", "fire_realm",
    "ice_realm", "graveyard",
)  # fmt: skip


ENGINES = ("auto", "native", "jax")
"""What can play a game: C++, or Craftax's own JAX programs; auto: the first that can be had."""
_TIERS = {"basic": 1.0, "intermediate": 3.0, "advanced": 5.0, "very_advanced": 8.0}


def _tier(index: int, name: str) -> float:
    """Reward of one achievement of the full game: 1, 3, 5 or 8 (226 in all)."""
    if index <= 24:
        return 1.0
    if name in _INTERMEDIATE:
        return 3.0
    return 8.0 if name in _VERY_ADVANCED else 5.0


class CraftaxEnvironment(Environment):
    """Facts of one environment; ``build`` makes the batched engine (imports JAX only then).

    An episode that reaches ``max_timesteps`` counts as terminated, as in the Craftax baselines
    (Craftax tells one ``done`` only), so no step of it is ever truncated.
    """

    name: ClassVar[str]
    auto_reset: ClassVar[bool] = False
    """Ended episodes begin anew inside the step, for which a world is made at every step."""
    layout: Compact | None = None
    native_forms: ClassVar[tuple[str, ...]] = ()
    """Forms in which the native engine shows it."""
    achievements: ClassVar[tuple[str, ...]]
    rewards: ClassVar[tuple[float, ...]]
    """Reward of each achievement, in the order of ``achievements``."""
    floors: ClassVar[tuple[str, ...]]
    """Floors from the surface down; entering floor i > 0 unlocks ``enter_<floor>``."""
    params: ClassVar[dict[str, Number]]
    """Parameters a task may override, with their defaults."""

    @classmethod
    def build(cls, num_envs: int, form: str = "dense", engine: str = "auto") -> BatchedEnvironment:
        """``num_envs`` of it in one of ENGINES. A JAX engine compiles, or reads the XLA cache;
        only then is JAX imported."""
        if cls.engine(form, engine) == "native":
            from workers.rl.environments.craftax.native.engine import NativeEngine

            return NativeEngine(cls, num_envs, form)
        from workers.rl.environments.craftax.engine import CraftaxEngine

        return CraftaxEngine(cls, num_envs, form)

    @classmethod
    def engine(cls, form: str, wanted: str = "auto") -> str:
        """``native`` or ``jax``: what plays this form of it here; builds the library if need be.

        Names that reset in every step are there to compare with Craftax, so ``auto`` leaves them
        to it.
        """
        if wanted != "auto":
            return wanted
        if form not in cls.native_forms or cls.auto_reset:
            return "jax"
        from workers.rl.environments.craftax.native.library import load

        return "native" if load().functions is not None else "jax"

    @classmethod
    def tiers(cls) -> dict[str, tuple[int, ...]]:
        """Tier -> indices of its achievements."""
        return {
            name: tuple(i for i, reward in enumerate(cls.rewards) if reward == worth)
            for name, worth in _TIERS.items()
            if worth in cls.rewards
        }

    @classmethod
    def unlocked_at(cls, floor: int) -> tuple[str, ...]:
        """Achievements an agent has that begins on ``floor``: entering it and those above."""
        return tuple(f"enter_{name}" for name in cls.floors[1 : floor + 1])

    @classmethod
    def deepest_floor(cls, unlocked: Sequence[bool]) -> int:
        """Index of the deepest floor entered, from the flags of all achievements."""
        entered = [
            index
            for index, name in enumerate(cls.floors)
            if index and unlocked[cls.achievements.index(f"enter_{name}")]
        ]
        return max(entered, default=0)


class _Classic(CraftaxEnvironment):
    actions = 17
    achievements = _BASIC
    rewards = (1.0,) * len(_BASIC)
    largest_return = sum(rewards)
    floors = ("overworld",)
    params: ClassVar[dict[str, Number]] = {
        "max_timesteps": 10000, "day_length": 300, "always_diamond": True, "zombie_health": 5,
        "cow_health": 3, "skeleton_health": 3, "mob_despawn_distance": 14,
        "spawn_cow_chance": 0.1, "spawn_zombie_base_chance": 0.02,
        "spawn_zombie_night_chance": 0.1, "spawn_skeleton_chance": 0.05,
    }  # fmt: skip


class _Full(CraftaxEnvironment):
    actions = 43
    achievements = _FULL
    rewards = tuple(_tier(index, name) for index, name in enumerate(_FULL))
    largest_return = sum(rewards)
    floors = _FLOORS
    params: ClassVar[dict[str, Number]] = {
        "max_timesteps": 100000, "day_length": 300, "always_diamond": False,
        "mob_despawn_distance": 14, "max_attribute": 5, "god_mode": False,
    }  # fmt: skip


class CraftaxClassicSymbolic(_Classic):
    """Crafter in JAX seen as 1345 numbers: one floor, 17 actions, 22 achievements, return 22."""

    name = "Craftax-Classic-Symbolic-v1"
    observation_shape = (1345,)
    forms = ("compact", "dense")
    native_forms = forms
    layout = compact.CLASSIC


class CraftaxClassicSymbolicAutoReset(CraftaxClassicSymbolic):
    """Craftax-Classic-Symbolic-v1 resetting all worlds in every step, as Craftax: slow."""

    name = "Craftax-Classic-Symbolic-AutoReset-v1"
    auto_reset = True


class CraftaxClassicPixels(_Classic):
    """Crafter in JAX seen as 63 x 63 colour pixels: 17 actions, 22 achievements, return 22."""

    name = "Craftax-Classic-Pixels-v1"
    observation_shape = (63, 63, 3)
    forms = ("pixels", "dense")


class CraftaxClassicPixelsAutoReset(CraftaxClassicPixels):
    """Craftax-Classic-Pixels-v1 resetting all worlds in every step, as Craftax: slow."""

    name = "Craftax-Classic-Pixels-AutoReset-v1"
    auto_reset = True


class CraftaxSymbolic(_Full):
    """Craftax seen as 8268 numbers: nine floors, 43 actions, 67 achievements, return 226."""

    name = "Craftax-Symbolic-v1"
    observation_shape = (8268,)
    forms = ("compact", "dense")
    native_forms = forms
    layout = compact.FULL


class CraftaxSymbolicAutoReset(CraftaxSymbolic):
    """Craftax-Symbolic-v1 resetting all worlds in every step, as Craftax: slow."""

    name = "Craftax-Symbolic-AutoReset-v1"
    auto_reset = True


class CraftaxPixels(_Full):
    """Craftax seen as 130 x 110 colour pixels: nine floors, 43 actions, 67 achievements."""

    name = "Craftax-Pixels-v1"
    observation_shape = (130, 110, 3)
    forms = ("pixels", "dense")


class CraftaxPixelsAutoReset(CraftaxPixels):
    """Craftax-Pixels-v1 resetting all worlds in every step, as Craftax: slow."""

    name = "Craftax-Pixels-AutoReset-v1"
    auto_reset = True


ENVIRONMENTS: dict[str, type[CraftaxEnvironment]] = {
    cls.name: cls
    for cls in (
        CraftaxClassicSymbolic,
        CraftaxSymbolic,
        CraftaxClassicPixels,
        CraftaxPixels,
        CraftaxClassicSymbolicAutoReset,
        CraftaxSymbolicAutoReset,
        CraftaxClassicPixelsAutoReset,
        CraftaxPixelsAutoReset,
    )
}
