"""Cuts documents of tokens into windows of equal length, each with tokens of one document only.

Letters: L targets of a document, N windows, S tokens of a window.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from workers.supervised.objectives import NO_TARGET


def windows(
    documents: Iterable[np.ndarray],
    size: int,
    end: int,
    most: int | None = None,
    types: tuple[type, type] = (np.int32, np.int32),
) -> tuple[np.ndarray, np.ndarray]:
    """(x [N, S], y [N, S]) of these ``types``: inputs and the next token of each; -100 = none.

    ``documents``: token ids [L - 1] of each. The token ``end`` begins a document as an input and
    ends it as a target, so every token of it is predicted once. The last window of a long document
    is moved back to be full, without the targets that the one before has; a document shorter than a
    window is filled up with ``end``. ``most``: stop at so many windows.
    """
    xs: list[np.ndarray] = [np.empty((0, size), types[0])]
    ys: list[np.ndarray] = [np.empty((0, size), types[1])]
    count = 0
    for ids in documents:
        if most is not None and count >= most:
            break
        if len(ids):
            x, y = _of_document(np.concatenate(([end], ids, [end])).astype(np.int32), size, end)
            xs.append(x.astype(types[0]))
            ys.append(y.astype(types[1]))
            count += len(x)
    return np.concatenate(xs)[:most], np.concatenate(ys)[:most]


def _of_document(tokens: np.ndarray, size: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows of one document with both its ends, int32 [L + 1]."""
    targets = len(tokens) - 1
    full, rest = divmod(targets, size)
    x = tokens[: full * size].reshape(full, size)
    y = tokens[1 : full * size + 1].reshape(full, size)
    if not rest:
        return x, y
    last_x, last_y = np.full((1, size), end, np.int32), np.full((1, size), NO_TARGET, np.int32)
    if full:
        last_x[0] = tokens[targets - size : targets]
        last_y[0, size - rest :] = tokens[targets + 1 - rest :]
    else:
        last_x[0, :rest] = tokens[:rest]
        last_y[0, :rest] = tokens[1:]
    return np.concatenate((x, last_x)), np.concatenate((y, last_y))
