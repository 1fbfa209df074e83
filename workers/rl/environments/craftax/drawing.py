"""What an agent sees of symbolic Craftax as a picture: a colour a block, a square a creature.

Made of observations alone, so that it needs neither textures nor JAX and is the same for both
engines. Knows no engine and no model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TILE = 16
"""Pixels of a tile's side."""
VIEWS = {1345: ((7, 9), 17, 0), 8268: ((9, 11), 37, 5)}
"""Numbers of a dense observation -> (rows, columns) in view, kinds of blocks, kinds of items."""
BLOCKS = (
    0x000000, 0x202024, 0x5C9E3C, 0x3C74C8, 0x8C8C90, 0x2C6428, 0x9C6C3C, 0xC8B48C, 0x303034,
    0xD8A888, 0xE8F8F8, 0xA0582C, 0x585C64, 0xE0D090, 0xE85C18, 0x88CC58, 0xC8DC48, 0x54545C,
    0x101014, 0x4C6450, 0x70707C, 0x2850E0, 0xD82848, 0xB07C30, 0x64A4F0, 0x8C5030, 0xC8E4F0,
    0x7C7468, 0x983C1C, 0x98C8E0, 0xC04C80, 0x60B0E8, 0x602878, 0x686C70, 0x5C6064, 0x50545C,
    0xA850C8,
)  # fmt: skip
"""Colour of each block, 0xRRGGBB, in the order of Craftax's block types (both games)."""
CREATURES = (0xD83030, 0xF0E0E0, 0xF09030, 0xF8F060, 0x80F8F8)
"""Colour by kind: what fights near, what does not, what fights from afar, what it shoots, what the
agent shoots."""
ITEM, AGENT = 0xF8C830, 0xE830E8


def picture(dense: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A dense observation [1345] or [8268] -> uint8 [rows * TILE, columns * TILE, 3]; what is dark
    is black, and the agent stands in the middle."""
    (rows, columns), blocks, items = VIEWS[len(dense)]
    channels = {17: 21, 37: 83}[blocks]
    tiles = dense[: rows * columns * channels].reshape(rows, columns, channels) > 0.5
    drawn = np.zeros((rows * TILE, columns * TILE, 3), np.uint8)
    for row, column in np.ndindex(rows, columns):
        tile = tiles[row, column]
        place = drawn[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
        place[:] = _rgb(BLOCKS[int(tile[:blocks].argmax())]) if tile[:blocks].any() else 0
        if tile[blocks + 1 : blocks + items].any():
            _square(place, 4, ITEM)
        alive = np.flatnonzero(tile[blocks + items : 82 if items else channels])
        if len(alive):
            _square(place, 8, CREATURES[int(alive[0]) // (8 if items else 1)])
    middle = drawn[rows // 2 * TILE :, columns // 2 * TILE :][:TILE, :TILE]
    _square(middle, 10, AGENT)
    return drawn


def _square(tile: NDArray[np.uint8], side: int, colour: int) -> None:
    start = (TILE - side) // 2
    tile[start : start + side, start : start + side] = _rgb(colour)


def _rgb(colour: int) -> tuple[int, int, int]:
    return colour >> 16, colour >> 8 & 255, colour & 255
