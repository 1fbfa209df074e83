"""How experts change over a lane: figures that need more than one evaluation. Pure.

Names are ``<figure>/<layer>`` or ``<figure>/<task>``; what one evaluation tells by itself comes
from ``workers.diagnostics``. Knows no journal and no tracker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workers.diagnostics.tables import (
    Table,
    age_share,
    drift,
    jaccard,
    mean_pairs,
    weighted_jaccard,
)

Gates = Mapping[str, Sequence[Sequence[float]]]
"""Layer -> gate weights of each expert on the samples of a drift probe [n][E]."""


def overlaps(
    masks: Mapping[str, Table], usage: Mapping[str, Table], domains: Sequence[str]
) -> dict[str, float]:
    """How alike the experts of two domains are, mean over pairs of the domains counted so far.

    ``mask_overlap/<layer>``: Jaccard index of the experts that they train;
    ``usage_overlap/<layer>``: weighted Jaccard index of the shares of their tokens (both 0..1).
    Tables are [domain][expert].
    """
    figures: dict[str, float] = {}
    for layer, rows in masks.items():
        matrix = usage.get(layer, rows)
        counted = [number for number in range(len(domains)) if any(matrix[number])]
        mask = [rows[number] for number in counted]
        figures[f"mask_overlap/{layer}"] = mean_pairs(mask, jaccard)
        shares = [matrix[number] for number in counted]
        figures[f"usage_overlap/{layer}"] = mean_pairs(shares, weighted_jaccard)
    return figures


def ages(
    gate_weights: Mapping[str, Sequence[float]], births: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """``age_share/<layer>/<stage>``: gate weight of the experts born in a stage (0..1).

    ``births``: layer -> stage of each expert, -1 = there from the start. Empty where all experts
    are of one age.
    """
    if len({born for layer in births.values() for born in layer}) < 2:
        return {}
    return {
        f"age_share/{layer}/{born:02d}": share
        for layer, weights in gate_weights.items()
        for born, share in sorted(age_share(weights, births.get(layer, ())).items())
    }


def drifts(task: str, then: Gates, now: Gates) -> dict[str, float]:
    """What has become of a task's routing since it was learnt, mean over its layers (0..1).

    ``routing_drift/<task>``: Jensen-Shannon divergence as a share of ln 2; ``top1_flips/<task>``:
    share of samples whose first expert changed; ``newcomer_weight/<task>``: gate weight of experts
    born since. Empty where no layer had two experts at both moments.
    """
    moves = [drift(then[layer], gates) for layer, gates in now.items() if layer in then]
    names = ("routing_drift", "top1_flips", "newcomer_weight")
    return {
        f"{name}/{task}": sum(values) / len(values)
        for name, values in zip(names, zip(*moves, strict=True), strict=False)
    }
