"""Diagnostics of which sets of experts run together, and of what they cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from workers.diagnostics.base import Diagnostic, Figures, Probe
from workers.diagnostics.routing import several

if TYPE_CHECKING:
    from torch import Tensor, nn

WORD = 30
"""Experts that one integer holds beside the number of what came before."""


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
            counts = set_numbers(gates.chosen).bincount()
            p = counts.double() / counts.sum()
            k_T = gates.chosen.sum(-1)
            sizes = range(int(k_T.min()), int(k_T.max()) + 1)
            experts = gates.chosen.shape[1]
            found[layer] = float(len(counts))
            found[f"{layer}/entropy"] = max(0.0, float(-(p * p.log2()).sum()))
            found[f"{layer}/bound"] = float(sum(math.comb(experts, size) for size in sizes))
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


def set_numbers(chosen_TE: Tensor) -> Tensor:
    """Number of each token's set of experts, from 0 without gaps, int64 [T]; equal for equal sets.

    Sorts one integer a token for every ``WORD`` experts: 2 to 12 times as fast as sorting rows (on
    a CPU, 1e5 to 1e6 tokens, 8 to 64 experts).
    """
    import torch

    number_T = torch.zeros(len(chosen_TE), dtype=torch.int64, device=chosen_TE.device)
    for bits_TW in chosen_TE.split(WORD, 1):
        powers_W = 2 ** torch.arange(bits_TW.shape[1], device=bits_TW.device)
        number_T = number_T * 2**WORD + (bits_TW * powers_W).sum(-1)
        number_T = number_T.unique(return_inverse=True)[1]
    return number_T


def _entries(module: nn.Module, least: int) -> int:
    """Entries of a module's parameters with at least so many dimensions."""
    parameters: Any = module.parameters()
    return sum(p.numel() for p in parameters if p.dim() >= least)
