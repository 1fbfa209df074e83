"""Diagnostics of how much work a model spends on what is difficult."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from workers.diagnostics.base import Diagnostic, Figures, Probe

if TYPE_CHECKING:
    from torch import Tensor


class ExpertsByLoss(Diagnostic):
    """Correlation over samples of the number of experts that run with the sample's loss.

    Pearson's; both are means over a sample's tokens. Above 0: samples that the model gets wrong
    pass more experts. The loss is the cross entropy, or the squared error where targets are
    numbers. Nothing where all samples pass as many experts, and in lanes that act.
    """

    unit = "correlation, -1..1"
    source = "Huang et al. 2024 (arXiv 2403.07652), experts by difficulty"
    scope = "task"
    cheap = False

    def figures(self, probe: Probe) -> Figures:
        import torch

        from workers.moe.routed import observing

        if probe.targets is None or not len(probe.inputs):
            return {}
        with torch.no_grad(), observing(probe.model, lambda routed: routed.chosen.sum(-1)) as seen:
            outputs = probe.model(probe.inputs)
        loss_N = _losses(outputs, probe.targets)
        found: Figures = {}
        for layer, passes in seen.items():
            k_N = torch.stack(passes).double().reshape(len(passes), len(loss_N), -1).mean((0, 2))
            value = _correlation(k_N, loss_N)
            if value is not None:
                found[layer] = value
        return found


def _losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Loss of each sample, float64 [N]."""
    from torch.nn import functional

    if targets.is_floating_point():
        wrong = (outputs.double() - targets.double().view_as(outputs)).square()
        return wrong.reshape(len(wrong), -1).mean(1)
    each = functional.cross_entropy(
        outputs.double().reshape(-1, outputs.shape[-1]), targets.reshape(-1), reduction="none"
    )
    counted = (targets >= 0).double().reshape(len(targets), -1)
    summed = each.reshape(len(targets), -1).sum(1)
    return summed / counted.sum(1).clamp(min=1.0)


def _correlation(a_N: Tensor, b_N: Tensor) -> float | None:
    a_N, b_N = a_N - a_N.mean(), b_N - b_N.mean()
    scale = math.sqrt(float(a_N.square().sum()) * float(b_N.square().sum()))
    return float((a_N * b_N).sum()) / scale if scale > 1e-12 else None
