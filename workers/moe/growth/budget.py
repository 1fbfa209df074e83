"""How wide a bottleneck expert may be, so that all experts together cost dense layers only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from workers.contract import InputError


class Size(NamedTuple):
    """One layer: what it maps, and how many experts share its place."""

    inputs: int
    outputs: int
    experts: int


def shared_width(sizes: Sequence[Size]) -> int:
    """The one hidden width with which the experts of all these layers fit as many dense layers.

    The largest ``h_b`` with ``sum_l N_l ((h_in + h_out) h_b + h_in) <= sum_l h_in h_out``: experts
    and their router rows, biases left out on both sides. Of a single layer it is
    ``floor(h_in (h_out - N) / ((h_in + h_out) N))`` (DynamicMoE, arXiv 2511.18987). Raises
    InputError where no width of at least 1 fits.
    """
    rest = sum(inputs * (outputs - experts) for inputs, outputs, experts in sizes)
    width = rest // sum((inputs + outputs) * experts for inputs, outputs, experts in sizes)
    if width < 1:
        listed = ", ".join(
            f"{experts} experts in a layer of {inputs} inputs and {outputs} outputs"
            for inputs, outputs, experts in sizes
        )
        raise InputError(
            f"no bottleneck fits: {listed} would be {width} wide, and the width must be at least "
            "1 (the layer needs clearly more outputs than experts); keep that layer dense "
            "(dense_last = true), make it wider, use fewer experts or expert = 'linear'"
        )
    return width
