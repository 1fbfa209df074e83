"""Diagnostic: how good a model is when each token runs k experts. Imports no torch at import."""

from __future__ import annotations

from typing import ClassVar

from workers.diagnostics.base import Diagnostic, Figures, Probe, Scope


class KCurve(Diagnostic):
    """Score against the number of experts that run for a token, k = 1..E, and the best k.

    ``k<k>``: score on the probe where each token of every routed layer runs its k largest experts
    (``workers.inference.k_sweep``); ``best``: the smallest k of the largest score. On few samples
    of the test part: a curve to look at, nothing to choose by.
    """

    unit = "score, 0..1 (best: experts)"
    source = "Dynamic Experts Search (arXiv 2509.22572)"
    scope: ClassVar[Scope] = "task"
    cheap = False

    def figures(self, probe: Probe) -> Figures:
        from workers.inference.k_sweep import with_k
        from workers.inference.steering import steerable

        layers = steerable(probe.model)
        if probe.score is None or not layers:
            return {}
        most = max(layer.live for layer in layers.values())
        curve = {
            k: probe.scored(with_k(layers, k, probe.model, probe.inputs))
            for k in range(1, most + 1)
        }
        best = max(curve, key=lambda k: curve[k])
        return {f"k{k}": score for k, score in curve.items()} | {"best": float(best)}
