"""Tensors in few bits: group quantisation, packed bytes, and how many bits each part gets.

Knows no model and no checkpoint. Letters: R rows, C columns, G groups, B bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workers.contract import InputError

GROUP = 32
"""Entries that share a scale."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A tensor of ``shape`` in ``bits`` per entry, beside a scale and an offset per group."""

    shape: tuple[int, ...]
    bits: int
    codes_B: Tensor
    """uint8: the codes of all entries in a row, most significant bit first."""
    scale_G: Tensor
    """float32: the step between two codes."""
    least_G: Tensor
    """float32: what code 0 stands for."""
    dtype: torch.dtype = torch.float32
    """Of the tensor as it is read back."""

    def unpacked(self) -> Tensor:
        """The tensor as it is read back: ``least + scale * code``."""
        entries = int(np.prod(self.shape)) if self.shape else 1
        bits = np.unpackbits(self.codes_B.numpy())[: entries * self.bits]
        powers = 1 << np.arange(self.bits - 1, -1, -1)
        codes = torch.from_numpy(bits.reshape(entries, self.bits) @ powers).float()
        scale, least = (x.repeat_interleave(GROUP)[:entries] for x in (self.scale_G, self.least_G))
        return (least + scale * codes).reshape(self.shape).to(self.dtype)


def pack(tensor: Tensor, bits: int, symmetric: bool = False) -> Packed:
    """Round to the nearest of ``2^bits`` steps in each group of ``GROUP`` entries.

    Steps run from the group's least to its largest value; ``symmetric``: from -m to m, m the
    largest absolute value.
    """
    flat = tensor.detach().cpu().float().reshape(-1)
    groups = -(-len(flat) // GROUP)
    filler = flat[-1:].expand(groups * GROUP - len(flat))
    values_GC = torch.cat([flat, filler]).reshape(groups, GROUP)
    most_G, least_G = values_GC.amax(1), values_GC.amin(1)
    if symmetric:
        most_G = values_GC.abs().amax(1)
        least_G = -most_G
    steps = 2**bits - 1
    scale_G = (most_G - least_G) / steps
    safe_G1 = scale_G.where(scale_G > 0, 1.0).unsqueeze(1)
    codes_GC = ((values_GC - least_G.unsqueeze(1)) / safe_G1).round().clamp(0, steps)
    codes = codes_GC.reshape(-1)[: len(flat)].to(torch.int64).numpy()
    shifts = np.arange(bits - 1, -1, -1)
    spread = ((codes[:, None] >> shifts) & 1).astype(np.uint8)
    codes_B = torch.from_numpy(np.packbits(spread.reshape(-1)))
    return Packed(tuple(tensor.shape), bits, codes_B, scale_G, least_G, tensor.dtype)


def allot(
    costs: Sequence[Mapping[int, float]], average: float, each: Sequence[int] = ()
) -> list[int]:
    """Bits for each part: least total cost with at most ``average`` bits a part, exactly.

    ``costs``: of each part, bits -> cost. ``each``: widths that at least one part must have.
    Dynamic programming over (bits spent, which of ``each`` are there). Raises InputError where
    nothing fits.
    """
    room = int(average * len(costs) + 1e-9)
    wanted = {width: 1 << place for place, width in enumerate(each)}
    best: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {(0, 0): (0.0, ())}
    for cost in costs:
        after: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {}
        for (spent, there), (total, widths) in best.items():
            for width, more in sorted(cost.items()):
                key = spent + width, there | wanted.get(width, 0)
                found = total + more, (*widths, width)
                if key[0] <= room and (key not in after or found < after[key]):
                    after[key] = found
        best = after
    whole = (1 << len(each)) - 1
    fitting = [found for (_, there), found in best.items() if there == whole]
    if not fitting:
        raise InputError(
            f"no choice of bits for {len(costs)} experts has an average of at most {average:g} and "
            f"one expert of each of {list(each)} bits; give a larger average, or fewer demands"
        )
    return list(min(fitting)[1])
