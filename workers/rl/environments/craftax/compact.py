"""The compact observation of symbolic Craftax, made from the game's state inside the step.

The one-hot picture is never built: each visible tile gives one code for its block, one for an
item lying there or for its darkness, each visible creature one. Knows no engine and no task.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

from workers.compact_layout import UNUSED, Compact

Encode = Callable[[Any], Any]
"""State of one environment -> int16 [width]."""

CLASSIC = Compact(ones=7 * 9 * 21, scalars=22, slots=64 + 12)
"""Tiles of 17 blocks and 4 kinds of creatures, 7 x 9 of them, and one slot to even the number."""

_BLOCKS, _ITEMS, _CHANNELS, _TILES = 37, 5, 83, 9 * 11
_LIGHT = _CHANNELS - 1


def _full_layout() -> Compact:
    """All tiles are lit and hold no item, but where a derived code says otherwise."""
    starts = [tile * _CHANNELS for tile in range(_TILES)]
    nothing = [start + _BLOCKS for start in starts]
    light = [start + _LIGHT for start in starts]
    dark = [(~a, ~b) for a, b in zip(nothing, light, strict=True)]
    items = [(place + item, ~place) for place in nothing for item in range(1, _ITEMS)]
    return Compact(
        ones=_TILES * _CHANNELS,
        scalars=51,
        slots=2 * _TILES + 14,
        usual=(*nothing, *light),
        derived=(*dark, *items),
    )


FULL = _full_layout()
"""Tiles of 37 blocks, 5 items, 40 kinds of creatures and one light, 9 x 11 of them."""

# Craftax joins its scalars from these parts; a slice inside one part lets XLA drop the picture.
_CLASSIC_PARTS = (12, 4, 4, 2)
_FULL_PARTS = (16, 6, 9, 4, 4, 4, 8)


def full(environment: Any) -> Encode:
    """Encoder of the full game's states."""
    import jax.numpy as jnp

    tiles = jnp.arange(_TILES, dtype=jnp.int32)

    def encode(state: Any) -> Any:
        level = state.player_level
        row, column, inside = _view(state.player_position, (9, 11), state.map.shape[1:])
        block = jnp.where(inside, state.map[level, row, column], 1)  # 1 = out of bounds
        item = jnp.where(inside, state.item_map[level, row, column], 0)
        lit = inside & (state.light_map[level, row, column] > 0.05)
        below = FULL.ones + tiles
        codes = jnp.where(lit, tiles * _CHANNELS + block, below)
        things = FULL.ones + _TILES + tiles * (_ITEMS - 1) + item - 1
        things = jnp.where(lit & (item > 0), things, UNUSED)
        mobs = [
            (mobs.position[level], mobs.mask[level], kind * 8 + mobs.type_id[level])
            for kind, mobs in enumerate(
                (
                    state.melee_mobs,
                    state.passive_mobs,
                    state.ranged_mobs,
                    state.mob_projectiles,
                    state.player_projectiles,
                )
            )
        ]
        tile, channel, seen = _creatures(mobs, state.player_position, (9, 11))
        seen = seen & lit[tile]
        creatures = jnp.where(seen, tile * _CHANNELS + _BLOCKS + _ITEMS + channel, UNUSED)
        picture = jnp.concatenate([codes, things, creatures])
        return _joined(picture, environment.get_obs(state), FULL, _FULL_PARTS)

    return encode


def classic(environment: Any) -> Encode:
    """Encoder of the classic game's states."""
    import jax.numpy as jnp

    channels, blocks = 21, 17
    tiles = jnp.arange(63, dtype=jnp.int32)

    def encode(state: Any) -> Any:
        row, column, inside = _view(state.player_position, (7, 9), state.map.shape)
        block = jnp.where(inside, state.map[row, column], 1)
        groups = (state.zombies, state.cows, state.skeletons, state.arrows)
        mobs = [
            (mobs.position, mobs.mask, jnp.full(mobs.mask.shape, kind, jnp.int32))
            for kind, mobs in enumerate(groups)
        ]
        tile, channel, seen = _creatures(mobs, state.player_position, (7, 9))
        creatures = jnp.where(seen, tile * channels + blocks + channel, UNUSED)
        spare = jnp.full(CLASSIC.slots - 63 - creatures.shape[0], UNUSED)
        picture = jnp.concatenate([tiles * channels + block, creatures, spare])
        return _joined(picture, environment.get_obs(state), CLASSIC, _CLASSIC_PARTS)

    return encode


def _view(centre: Any, size: tuple[int, int], world: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """Row and column in the world of each tile in view, and whether it lies in the world."""
    import jax.numpy as jnp

    row = centre[0] - size[0] // 2 + jnp.repeat(jnp.arange(size[0]), size[1])
    column = centre[1] - size[1] // 2 + jnp.tile(jnp.arange(size[1]), size[0])
    inside = (row >= 0) & (row < world[0]) & (column >= 0) & (column < world[1])
    return jnp.clip(row, 0, world[0] - 1), jnp.clip(column, 0, world[1] - 1), inside


def _creatures(
    groups: list[tuple[Any, Any, Any]], centre: Any, size: tuple[int, int]
) -> tuple[Any, Any, Any]:
    """Tile in view, channel and visibility of each creature.

    Craftax writes creatures one after the other into the picture, a dead or distant one as a
    zero (with negative places counted from the far edge), so a later one can hide an earlier one
    of its kind. A creature is seen if no later one writes to the same place.
    """
    import jax.numpy as jnp

    position = jnp.concatenate([position for position, _, _ in groups])
    alive = jnp.concatenate([mask for _, mask, _ in groups])
    channel = jnp.concatenate([channel for _, _, channel in groups])
    local = position - centre + jnp.array(size) // 2
    bounds = jnp.array(size)
    near = ((local >= 0) & (local < bounds)).all(-1)
    wrapped = jnp.where(local < 0, local + bounds, local)
    writes = ((wrapped >= 0) & (wrapped < bounds)).all(-1)
    tile = jnp.where(writes, wrapped[:, 0] * size[1] + wrapped[:, 1], 0)
    same = (tile[:, None] == tile[None]) & (channel[:, None] == channel[None])
    later = jnp.arange(len(tile))[:, None] < jnp.arange(len(tile))[None]
    hidden = (same & later & writes[None]).any(1)
    return tile, channel, near & alive & ~hidden


def _joined(picture: Any, observation: Any, layout: Compact, parts: tuple[int, ...]) -> Any:
    """Codes and the bits of the scalars, which are those of Craftax's own observation."""
    import jax
    import jax.numpy as jnp

    edges = [layout.ones, *accumulate(parts, initial=layout.ones)][1:]
    scalars = [observation[start:stop] for start, stop in pairwise(edges)]
    real = jnp.concatenate([part.astype(jnp.float32) for part in scalars])
    bits = jax.lax.bitcast_convert_type(real, jnp.int16).reshape(-1)
    return jnp.concatenate([picture.astype(jnp.int16), bits])
