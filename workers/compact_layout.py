"""How an observation made of zeros, ones and a few scalars is written in a few hundred bytes.

Knows neither torch nor JAX: environments write this form, a model's first layer reads it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNUSED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Compact:
    """Layout of the short form of an observation of ``ones`` binary and ``scalars`` real numbers.

    Short form: int16 ``[slots + 2 * scalars]``, codes first (-1 = unused slot), then the scalars'
    float32 bits. A code below ``ones`` puts a one there; code ``ones + j`` adds ``derived[j]``,
    two places with a sign (``p`` adds one at p, ``~p`` takes one off). The places of ``usual``
    are ones in every observation unless a derived code takes them off. A linear map of the
    observation is therefore a sum of rows of its weight, exactly.
    """

    ones: int
    scalars: int
    slots: int
    usual: tuple[int, ...] = ()
    derived: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        assert self.ones + len(self.derived) < 2**15, "codes are 16 bit"
        assert self.slots % 2 == 0, "the scalars begin at a multiple of four bytes"

    @property
    def width(self) -> int:
        """Entries (int16) of the short form."""
        return self.slots + 2 * self.scalars

    @property
    def dense_width(self) -> int:
        """Numbers of the long form."""
        return self.ones + self.scalars

    def dense(self, short: NDArray[np.int16]) -> NDArray[np.float32]:
        """[B, width] -> the observations themselves [B, ones + scalars]."""
        batch = len(short)
        full = np.zeros((batch, self.dense_width), np.float32)
        full[:, list(self.usual)] = 1.0
        codes = short[:, : self.slots].astype(np.int64)
        row, slot = np.nonzero(codes >= 0)
        code = codes[row, slot]
        plain = code < self.ones
        np.add.at(full, (row[plain], code[plain]), 1.0)
        table = np.array(self.derived, np.int64).reshape(-1, 2)
        for place in table[code[~plain] - self.ones].T:
            sign = np.where(place >= 0, np.float32(1), np.float32(-1))
            np.add.at(full, (row[~plain], np.where(place >= 0, place, ~place)), sign)
        full[:, self.ones :] = np.ascontiguousarray(short[:, self.slots :]).view(np.float32)
        return full
