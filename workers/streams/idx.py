"""Reads idx files (the format of MNIST), plain or gzip, and refuses damaged ones by name."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from workers.contract import InputError

MOST_BYTES = 2 << 30
"""Of an unpacked file: a hundred times what MNIST's largest has."""


def read_idx(path: Path, dimensions: int, cure: str) -> np.ndarray:
    """The unsigned-byte array of ``dimensions`` axes in an idx file.

    Raises InputError naming the file where it is missing, truncated, not gzip inside a ``.gz``,
    or not an idx file of that kind; ``cure`` ends the message.
    """
    data = unpacked(path, cure)
    head = 4 + 4 * dimensions
    magic = bytes((0, 0, 8, dimensions))
    if len(data) < head or data[:4] != magic:
        raise InputError(
            f"{path}: starts with {data[:4].hex() or 'nothing'}, an idx file of bytes with "
            f"{dimensions} axes starts with {magic.hex()}; {cure}"
        )
    sizes = struct.unpack(f">{dimensions}I", data[4:head])
    expected = head + math.prod(sizes)
    if len(data) != expected:
        raise InputError(
            f"{path}: holds {len(data)} bytes, its header {sizes} needs {expected}; {cure}"
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(sizes)


def read_pair(images: Path, labels: Path, classes: int, cure: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 1, H, W] and labels int64 [N] of a pair of files that belong together."""
    x, y = read_idx(images, 3, cure), read_idx(labels, 1, cure)
    if len(x) != len(y):
        raise InputError(f"{images}: {len(x)} images, but {labels} has {len(y)} labels; {cure}")
    if len(y) and int(y.max()) >= classes:
        raise InputError(
            f"{labels}: label {int(y.max())} found, allowed: 0 to {classes - 1}; {cure}"
        )
    return x[:, None], y.astype(np.int64)


def unpacked(path: Path, cure: str) -> bytes:
    """Contents of a file, unpacked where its name ends in ``.gz``; InputError where unreadable, or
    larger than any that is known."""
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); {cure}") from error
    if len(data) > MOST_BYTES:
        raise InputError(f"{path}: unpacks to more than {MOST_BYTES >> 30} GiB; {cure}")
    return data
