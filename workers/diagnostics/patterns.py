"""Diagnostics of which sets of experts run together, and of what they cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from workers.diagnostics.base import Diagnostic, Figures, Probe
from workers.diagnostics.routing import several

if TYPE_CHECKING:
    from torch import nn


class RoutingPatterns(Diagnostic):
    """Distinct sets of experts that ran for a token; their entropy and the number possible.

    ``<layer>``: sets seen; ``<layer>/entropy``: ``-sum_S P(S) log2 P(S)``; ``<layer>/bound``:
    ``sum_k C(E, k)`` over the numbers k of experts between the least and the largest seen.
    """

    unit = "sets (entropy: bits)"
    source = "DynaMoE (arXiv 2603.01697), theorem 1"
    scope = "task"

    def figures(self, probe: Probe) -> Figures:
        found: Figures = {}
        for layer, gates in several(probe):
            sets, counts = gates.chosen.unique(dim=0, return_counts=True)
            p = counts.double() / counts.sum()
            k = sets.sum(-1)
            sizes = range(int(k.min()), int(k.max()) + 1)
            found[layer] = float(len(sets))
            found[f"{layer}/entropy"] = max(0.0, float(-(p * p.log2()).sum()))
            found[f"{layer}/bound"] = float(sum(math.comb(sets.shape[1], size) for size in sizes))
        return found


class ActiveFlops(Diagnostic):
    """Operations of a token in each routed layer: of the experts that ran for it, and the router.

    Two for each entry of a matrix that the token passes, so ``E[k] 4 d d_h + 2 d E`` where experts
    have two layers; functions between maps and biases do not count. ``all/total``: their sum.
    """

    unit = "operations for a token"
    source = "DynaMoE (arXiv 2603.01697), proposition 1"
    scope = "task"

    def figures(self, probe: Probe) -> Figures:
        from workers.moe.routed import routed_layers

        layers = routed_layers(probe.model)
        found: Figures = {}
        for name, gates in probe.routed.items():
            layer = layers[name]
            sizes = [_entries(expert, 2) for expert in layer.experts.values()]
            ran_E = gates.chosen.double().mean(0).tolist()
            run = sum(size * share for size, share in zip(sizes, ran_E, strict=True))
            shared = sum(_entries(expert, 2) for expert in layer.shared)
            routers = sum(_entries(router, 1) for router in layer.routers)
            found[name] = 2.0 * (layer.rounds * (run + shared) + routers)
        return found | {"all/total": sum(found.values())} if found else {}


def _entries(module: nn.Module, least: int) -> int:
    """Entries of a module's parameters with at least so many dimensions."""
    parameters: Any = module.parameters()
    return sum(p.numel() for p in parameters if p.dim() >= least)
