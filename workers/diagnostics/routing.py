"""Measures of routing from gate weights: entropies, load, and the probes that drift is told by.

Letters: T tokens, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

PROBE = 32
"""Tokens of a task whose gate weights are told one by one."""
DECIMALS = 5


def measure(kept: Mapping[str, Sequence[Tensor]]) -> dict[str, float]:
    """``routing/<layer>/<measure>`` of each layer with more than one expert.

    ``conditional_entropy``: mean over tokens of the gates' entropy; ``marginal_entropy``: entropy
    of the mean gates; both as shares of ln E. High marginal with low conditional entropy is
    healthy specialisation, both low is collapse, both high is no routing. ``load_cv``: standard
    deviation over mean of the experts' mean gates; ``dead``: experts below 0.01 / E.
    """
    figures: dict[str, float] = {}
    for layer, parts in kept.items():
        gates_TE = torch.cat(list(parts)).double()
        experts = gates_TE.shape[1]
        if experts < 2:
            continue
        mean_E = gates_TE.mean(0)
        figures |= {
            f"routing/{layer}/conditional_entropy": float(_entropy(gates_TE).mean()),
            f"routing/{layer}/marginal_entropy": float(_entropy(mean_E)),
            f"routing/{layer}/load_cv": float(mean_E.std(correction=0) / mean_E.mean()),
            f"routing/{layer}/dead": float((mean_E < 0.01 / experts).sum()),
        }
    return figures


def probe(kept: Mapping[str, Sequence[Tensor]]) -> dict[str, list[list[float]]]:
    """Layer -> gate weights of the first tokens, rounded: small enough for a journal."""
    return {
        layer: [[round(gate, DECIMALS) for gate in row] for row in parts[0][:PROBE].tolist()]
        for layer, parts in kept.items()
        if parts and parts[0].shape[1] > 1
    }


def _entropy(gates: Tensor) -> Tensor:
    """Entropy of the last dimension as a share of the largest possible."""
    return torch.special.entr(gates).sum(-1) / math.log(gates.shape[-1])
