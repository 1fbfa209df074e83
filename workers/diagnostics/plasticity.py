"""Measures of plasticity: pure functions of features, parameters and gradients.

Compare values over time on one fixed probe batch only; drift of data looks like drift of model.
Letters: N samples, F features (units).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn


@torch.no_grad()
def activations(
    module: nn.Module, probe: Tensor, forward: Callable[[Tensor], Tensor] | None = None
) -> dict[str, Tensor]:
    """Output of every ``nn.ReLU`` while the probe passes: ``<module name>.<call number>``."""
    seen: dict[str, Tensor] = {}
    calls: Counter[str] = Counter()

    def keep(name: str, output: Tensor) -> None:
        seen[f"{name}.{calls[name]}"] = output
        calls[name] += 1

    handles = [
        part.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name, part in module.named_modules()
        if isinstance(part, nn.ReLU)
    ]
    try:
        (forward or module)(probe)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def dormant_ratio(features: Tensor, tau: float = 0.025) -> float:
    """Share of units with ``mean|h_i| <= tau * mean over units of mean|h|``, in 0..1.

    ``features`` [N, F], or [N, F, height, width] averaged over space (ReDo, arXiv 2302.12902).
    """
    dims = [dim for dim in range(features.dim()) if dim != 1]
    score_F = features.abs().mean(dims)
    return float((score_F <= tau * (score_F.mean() + 1e-9)).double().mean())


def zero_activation_ratio(features: Tensor) -> float:
    """Share of activations that are exactly 0, in 0..1; any shape."""
    return float((features == 0).double().mean())


def effective_rank(features_NF: Tensor) -> float:
    """``exp(-sum p ln p)`` over normalised singular values, in 1..min(N, F); 0 for all zeros.

    Roy and Vetterli, "The effective rank", EUSIPCO 2007.
    """
    values = _singular_values(features_NF)
    share = values[values > 0] / values.sum()
    return float(torch.exp(-(share * share.log()).sum())) if len(share) else 0.0


def srank(features_NF: Tensor, delta: float = 0.01) -> int:
    """Least k whose k largest singular values sum to ``1 - delta`` of all (arXiv 2010.14498)."""
    values = _singular_values(features_NF)
    if not values.any():
        return 0
    reached = (values.cumsum(0) / values.sum()) >= 1 - delta
    return int(reached.double().argmax()) + 1


def participation_ratio(features_NF: Tensor) -> float:
    """``(sum lam)^2 / sum lam^2`` of the covariance's eigenvalues, in 1..F; 0 for constants."""
    centred = features_NF.double() - features_NF.double().mean(0)
    lam = torch.linalg.svdvals(centred) ** 2
    return float(lam.sum() ** 2 / (lam**2).sum()) if lam.any() else 0.0


def weight_norm(parameters: Mapping[str, Tensor]) -> float:
    """``sum over tensors of |W|_2 / numel(W)``."""
    return float(sum(w.detach().norm().double() / w.numel() for w in parameters.values()))


def weight_distance(parameters: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> float:
    """``weight_norm`` of the difference to ``start``, over the tensors that both have alike."""
    moved = {
        name: tensor.detach() - start[name]
        for name, tensor in parameters.items()
        if name in start and start[name].shape == tensor.shape
    }
    return weight_norm(moved)


def gradient_norms(gradients: Iterable[Tensor | None]) -> dict[str, float]:
    """``min``, ``mean``, ``max`` of the tensors' 2-norms and ``zero_ratio`` of their entries.

    Parameters without a gradient are left out; empty if none has one.
    """
    present = [gradient.detach() for gradient in gradients if gradient is not None]
    if not present:
        return {}
    norms = torch.stack([gradient.norm().double() for gradient in present])
    zeros = sum(int((gradient == 0).sum()) for gradient in present)
    return {
        "min": float(norms.min()),
        "mean": float(norms.mean()),
        "max": float(norms.max()),
        "zero_ratio": zeros / sum(gradient.numel() for gradient in present),
    }


def _singular_values(features_NF: Tensor) -> Tensor:
    return torch.linalg.svdvals(features_NF.detach().flatten(1).double())
