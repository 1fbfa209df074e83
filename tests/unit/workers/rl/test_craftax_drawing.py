"""Pictures of symbolic Craftax: each thing where the observation says it is."""

from __future__ import annotations

import numpy as np
import pytest

from workers.rl.environments.base import EnvironmentTask
from workers.rl.environments.craftax.catalog import CraftaxClassicSymbolic
from workers.rl.environments.craftax.drawing import (
    AGENT,
    BLOCKS,
    CREATURES,
    ITEM,
    TILE,
    VIEWS,
    picture,
)
from workers.rl.environments.craftax.native import library

GRASS, WATER, STONE = 2, 3, 4


def colours(drawn: np.ndarray, row: int, column: int) -> set[int]:
    tile = drawn[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
    return {int.from_bytes(bytes(pixel), "big") for pixel in tile.reshape(-1, 3)}


@pytest.mark.parametrize(("numbers", "channels"), [(1345, 21), (8268, 83)])
def test_blocks_creatures_and_items_have_their_place(numbers: int, channels: int) -> None:
    (rows, columns), blocks, items = VIEWS[numbers]
    seen = np.zeros(numbers, np.float32)
    tiles = seen[: rows * columns * channels].reshape(rows, columns, channels)
    tiles[:, :, GRASS] = 1.0
    tiles[0, 0, [GRASS, WATER]] = 0.0, 1.0
    cow = blocks + items + (8 if items else 1)
    tiles[0, 1, cow] = 1.0
    tiles[0, 2] = 0.0
    if items:
        tiles[:, :, blocks] = 1.0
        tiles[1, 0, [blocks, blocks + 2]] = 0.0, 1.0
        tiles[:, :, 82] = 1.0
    drawn = picture(seen)
    assert drawn.shape == (rows * TILE, columns * TILE, 3)
    assert colours(drawn, 0, 0) == {BLOCKS[WATER]}
    assert colours(drawn, 0, 1) == {BLOCKS[GRASS], CREATURES[1]}
    assert colours(drawn, 0, 2) == {0}
    assert colours(drawn, rows // 2, columns // 2) == {BLOCKS[GRASS], AGENT}
    assert colours(drawn, 1, 0) == ({BLOCKS[GRASS], ITEM} if items else {BLOCKS[GRASS]})


@pytest.mark.skipif(library.load().functions is None, reason="needs a C++ compiler")
def test_both_forms_give_the_same_picture() -> None:
    pictures = []
    for form in ("compact", "dense"):
        engine = CraftaxClassicSymbolic.build(2, form, "native")
        engine.set_task(EnvironmentTask())
        engine.seed(3)
        engine.reset()
        for action in (1, 2, 4):
            engine.step(np.full(2, action))
        pictures.append(engine.picture())
    assert np.array_equal(*pictures)
    assert len(np.unique(pictures[0].reshape(-1, 3), axis=0)) > 2
