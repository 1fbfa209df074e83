"""Diagnostics of plasticity: features, weights and gradients.

Features are compared over time on one fixed probe only: drift of data looks like drift of the
model. Letters: N samples, F features (units), M rows of a feature matrix.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from workers.diagnostics.base import Diagnostic, Figures, Probe, Scope

if TYPE_CHECKING:
    from torch import Tensor

MATRIX_SIDE = 512
"""Rows and columns of a feature matrix whose singular values are taken; more are thinned out."""
NOISE = 1e-7
"""Share of the largest singular value below which one counts as zero."""


class OfFeatures(Diagnostic):
    """Base of diagnostics that look at one layer's features at a time."""

    scope: ClassVar[Scope] = "layer"

    def figures(self, probe: Probe) -> Figures:
        return {layer: self.of(features) for layer, features in probe.activations.items()}

    def of(self, features: Tensor) -> float:
        """The value of one layer; features as in ``Probe.activations``."""
        raise NotImplementedError


class OfSpectrum(Diagnostic):
    """Base of diagnostics that look at the singular values of one layer's features at a time;
    layers whose features are not finite have none."""

    scope: ClassVar[Scope] = "layer"

    def figures(self, probe: Probe) -> Figures:
        if not probe.spectra:
            for layer, features in probe.activations.items():
                if features.isfinite().all():
                    probe.spectra[layer] = _singular_values(features)
        return {layer: self.of(values) for layer, values in probe.spectra.items()}

    def of(self, values: Tensor) -> float:
        """The value of one layer; its singular values, largest first, float64 [min(M, F)]."""
        raise NotImplementedError


class DormantRatio(OfFeatures):
    """Share of units that hardly fire: ``mean_x|h_i| <= tau * mean_k mean_x|h_k|``.

    Means over samples, and over positions or space where a unit has several.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Diagnostic.Config):
        """Settings of the threshold."""

        kind: str = "dormant_ratio"
        tau: float = 0.025
        """Score, as a share of the layer's mean one, up to which a unit is dormant."""

        def __post_init__(self) -> None:
            if self.tau < 0:
                raise ValueError(f"tau must not be negative, got {self.tau}")

    unit = "share of units, 0..1"
    source = "Sokar et al. 2023 (arXiv 2302.12902), definition 3.1"

    config: Config

    def of(self, features: Tensor) -> float:
        score_F = _units(features).abs().mean(0)
        return float((score_F <= self.config.tau * (score_F.mean() + 1e-9)).double().mean())


class ZeroActivationRatio(OfFeatures):
    """Share of activations that are exactly 0."""

    unit = "share of activations, 0..1"
    source = "DynamicMoE (arXiv 2511.18987), training log"

    def of(self, features: Tensor) -> float:
        return float((features == 0).double().mean())


class EffectiveRank(OfSpectrum):
    """Exponential of the entropy of the normalised singular values, ``exp(-sum_i p_i ln p_i)``.

    ``p_i = s_i / sum s`` of the features [M, F]; 0 where all are zero.
    """

    unit = "dimensions, 1..min(M, F)"
    source = "Roy and Vetterli 2007, The effective rank"

    def of(self, values: Tensor) -> float:
        share = values[values > 0] / values.sum()
        return float((-(share * share.log()).sum()).exp()) if len(share) else 0.0


class SRank(OfSpectrum):
    """Least number of singular values that hold ``1 - delta`` of their sum; 0 for zeros."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Diagnostic.Config):
        """Settings of the share."""

        kind: str = "srank"
        delta: float = 0.01
        """Share of the sum that may be left out."""

        def __post_init__(self) -> None:
            if not 0 <= self.delta < 1:
                raise ValueError(f"delta must be at least 0 and below 1, got {self.delta}")

    unit = "dimensions, 1..min(M, F)"
    source = "Kumar et al. 2021 (arXiv 2010.14498)"

    config: Config

    def of(self, values: Tensor) -> float:
        if not values.any():
            return 0.0
        reached = (values.cumsum(0) / values.sum()) >= 1 - self.config.delta
        return float(int(reached.double().argmax()) + 1)


class ParticipationRatio(OfFeatures):
    """``(sum lam)^2 / sum lam^2`` of the eigenvalues of the features' covariance; 0 if constant."""

    unit = "dimensions, 1..F"
    source = "Gao and Ganguli 2015; DynaMoE (arXiv 2603.01697), equation 30"

    def of(self, features: Tensor) -> float:
        features_MF = _matrix(features)
        centred = features_MF - features_MF.mean(0)
        # both sums are norms: sum lam = |X|_F^2 and sum lam^2 = |X X'|_F^2
        total, squares = (centred**2).sum(), ((centred @ centred.T) ** 2).sum()
        return float(total**2 / squares) if squares > 0 else 0.0


class WeightNorm(Diagnostic):
    """Sum over tensors of ``|W|_2 / numel(W)``: of all, and of each part of the model."""

    unit = "norm per entry, from 0"
    source = "DynamicMoE (arXiv 2511.18987), training log"
    scope = "model"

    def figures(self, probe: Probe) -> Figures:
        return _scaled_norms(probe.parameters)


class WeightDistance(Diagnostic):
    """``weight_norm`` of the difference to the untrained model: ``|W - W_0|_2 / numel(W)``.

    Only over tensors that both have in one shape: experts born later have no start.
    """

    unit = "norm per entry, from 0"
    source = "DynamicMoE (arXiv 2511.18987), training log"
    scope = "model"

    def figures(self, probe: Probe) -> Figures:
        moved = {
            name: tensor - probe.start[name]
            for name, tensor in probe.parameters.items()
            if name in probe.start and probe.start[name].shape == tensor.shape
        }
        return _scaled_norms(moved)


class GradientNorms(Diagnostic):
    """Least, mean and largest 2-norm of the parameters' gradients, and their share of zeros.

    Of the mean loss on the probe; parameters without a gradient are left out. Keys ``min``,
    ``mean``, ``max`` and ``zero_ratio``.
    """

    unit = "norm, from 0 (zero_ratio: share of entries, 0..1)"
    source = "DynamicMoE (arXiv 2511.18987), training log"
    scope = "model"
    cheap = False
    needs_gradients = True

    def figures(self, probe: Probe) -> Figures:
        present = [g.detach() for g in (probe.gradients or {}).values() if g is not None]
        if not present:
            return {}
        norms = [float(gradient.double().norm()) for gradient in present]
        zeros = sum(int((gradient == 0).sum()) for gradient in present)
        return {
            "min": min(norms),
            "mean": sum(norms) / len(norms),
            "max": max(norms),
            "zero_ratio": zeros / sum(gradient.numel() for gradient in present),
        }


def _units(features: Tensor) -> Tensor:
    """Features as [M, F]: space (of [N, F, height, width]) and positions become rows."""
    if features.dim() == 4:
        features = features.movedim(1, -1)
    return features.reshape(-1, features.shape[-1])


def _matrix(features: Tensor) -> Tensor:
    """Features as float64 [M, F], thinned out evenly to MATRIX_SIDE rows and columns.

    A feature map counts as one row of features for each place and filter.
    """
    flat = features.flatten(1) if features.dim() == 4 else _units(features)
    rows, columns = (_evenly(size) for size in flat.shape)
    return flat.detach()[rows][:, columns].double()


def _evenly(size: int) -> list[int]:
    """At most MATRIX_SIDE of ``size`` places, evenly spaced."""
    kept = min(size, MATRIX_SIDE)
    return [place * size // kept for place in range(kept)]


def _singular_values(features: Tensor) -> Tensor:
    """Largest first: roots of the eigenvalues of the smaller Gram matrix, in half the time of a
    decomposition, and exact down to ``NOISE``."""
    import torch

    features_MF = _matrix(features)
    tall = len(features_MF) >= features_MF.shape[1]
    gram = features_MF.T @ features_MF if tall else features_MF @ features_MF.T
    values: Tensor = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)
    return torch.where(values > NOISE * values[0], values, 0.0)


def _scaled_norms(tensors: Mapping[str, Tensor]) -> Figures:
    """``all`` and each part of the model (first word of the names) -> sum of norm / numel."""
    import torch

    if not tensors:
        return {}
    norms = torch._foreach_norm(list(tensors.values()))
    sums: dict[str, float] = defaultdict(float)
    for (name, tensor), norm in zip(tensors.items(), torch.stack(norms).tolist(), strict=True):
        for part in ("all", name.partition(".")[0]):
            sums[part] += norm / tensor.numel()
    return dict(sums)
