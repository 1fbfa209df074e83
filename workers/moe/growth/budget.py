"""How wide experts may be, so that all of them together cost dense layers only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from workers.contract import InputError


class Size(NamedTuple):
    """One layer: what it maps, and how many experts share its place."""

    inputs: int
    outputs: int
    experts: int
    spent: int = 0
    """Weights of the layer's budget that go to something else than these experts."""


def shared_width(sizes: Sequence[Size], input_maps: int = 1, reads: int | None = None) -> int:
    """The one hidden width with which the experts of all these layers fit as many dense layers.

    The largest ``h_b`` with ``sum_l N_l ((m h_in + h_out) h_b + h_in) + spent_l <= sum_l h_in
    h_out``: experts and their router rows, biases left out on both sides; ``input_maps`` is m, the
    rows that one hidden unit has (2 in a gated expert), each of length h_in, or ``reads`` where
    that is given. Of a single layer with m = 1 and nothing spent it is
    ``floor(h_in (h_out - N) / ((h_in + h_out) N))`` (DynamicMoE, arXiv 2511.18987). Raises
    InputError where no width of at least 1 fits.
    """
    rest = sum(size.inputs * (size.outputs - size.experts) - size.spent for size in sizes)
    width = rest // sum(
        (input_maps * (reads or size.inputs) + size.outputs) * size.experts for size in sizes
    )
    if width < 1:
        listed = ", ".join(
            f"{size.experts} experts in a layer of {size.inputs} inputs and {size.outputs} outputs"
            + (f", {size.spent} of its weights spent on what they share" if size.spent else "")
            for size in sizes
        )
        raise InputError(
            f"no hidden width fits: {listed} would be {width} wide, and the width must be at least "
            "1 (the layer needs clearly more outputs than experts); keep that layer dense "
            "(dense_last = true), make it wider, use fewer experts or expert = 'linear'"
        )
    return width
