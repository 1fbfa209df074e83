"""How wide a bottleneck expert may be, so that all experts together cost one dense layer."""

from __future__ import annotations

from workers.contract import InputError


def width_for_budget(inputs: int, outputs: int, experts: int) -> int:
    """Hidden width with which ``experts`` bottlenecks and their router rows fit a dense layer.

    ``floor(h_in (h_out - N) / ((h_in + h_out) N))``: the largest width with
    ``N (h_in h_b + h_b h_out) + N h_in <= h_in h_out``; biases are left out on both sides
    (DynamicMoE, arXiv 2511.18987). Raises InputError where no width of at least 1 fits.
    """
    width = inputs * (outputs - experts) // ((inputs + outputs) * experts)
    if width < 1:
        raise InputError(
            f"no bottleneck fits: {experts} experts in a layer of {inputs} inputs and {outputs} "
            f"outputs would be {width} wide, and the width must be at least 1 (the layer needs "
            "clearly more outputs than experts); keep that layer dense (dense_last = true), make "
            "it wider, use fewer experts or expert = 'linear'"
        )
    return width
