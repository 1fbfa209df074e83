"""Where over depth a model wants capacity: what layers read, against the experts they have."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workers.diagnostics.base import Diagnostic, Figures, Probe
from workers.diagnostics.sensitivity import curvature, input_gradients, layer_inputs

if TYPE_CHECKING:
    from torch import Tensor

JITTER = 1e-3
"""Added to each variance, so that a constant feature has a logarithm."""
SIGNALS = ("entropy", "curvature", "complexity", "gradient_variance", "co_adaptation")
"""In the order of the weights a1 to a5."""


class RdcIndex(Diagnostic):
    """Demand for capacity D_l of each routed layer from five signals, and experts that fit it.

    ``D_l = sum_s a_s z_s(l)``, each signal standardised over layers: ``entropy`` of what the layer
    reads (a Gaussian's, ``logdet(2 pi e (C + eps I)) / 2D``), ``curvature`` of the loss there,
    ``complexity`` (bytes for each number once rounded to 8 bits and deflated),
    ``gradient_variance`` of the loss over samples, ``co_adaptation`` (mean |correlation| of two
    units). ``<layer>/experts``: ``N*_l = min + (max - min)(D_l - min D) / (max D - min D)``
    (equation 25), the largest layer's number being max; ``all/misalignment``:
    ``sum_l (N_l - N*_l)^2 / sum_l N_l`` (equation 26). The source leaves estimators
    and weights open; these are ours.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Diagnostic.Config):
        """Weights of the signals, and the least number of experts."""

        kind: str = "rdc_index"
        weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0)
        """a1 to a5, of entropy, curvature, complexity, gradient variance, co-adaptation."""
        minimum: int = 1
        """Experts of the layer with the smallest demand."""

        def __post_init__(self) -> None:
            if len(self.weights) != len(SIGNALS):
                raise ValueError(f"weights: one for each of {SIGNALS}, got {self.weights}")
            if self.minimum < 1:
                raise ValueError(f"minimum must be at least 1, got {self.minimum}")

    unit = "sum of standard deviations over layers (experts: experts)"
    source = "DynaMoE (arXiv 2603.01697), equations 24 to 26"
    scope = "model"
    cheap = False
    needs_gradients = True

    config: Config

    def figures(self, probe: Probe) -> Figures:
        found = {name: _signals(probe, name, h) for name, h in layer_inputs(probe).items()}
        if len(found) < 2:
            return {}
        columns = [standardised([of[signal] for of in found.values()]) for signal in SIGNALS]
        rows = zip(*columns, strict=True)
        demand = {
            name: sum(a * z for a, z in zip(self.config.weights, row, strict=True))
            for name, row in zip(found, rows, strict=True)
        }
        live = {name: len(probe.model.get_submodule(name).experts) for name in found}  # type: ignore[arg-type]
        wanted = fitting(demand, self.config.minimum, max(live.values()))
        off = sum((live[name] - wanted[name]) ** 2 for name in found) / sum(live.values())
        figures = {"all/misalignment": off}
        for name, signals in found.items():
            figures |= {name: demand[name], f"{name}/experts": wanted[name]}
            figures |= {f"{name}/{signal}": value for signal, value in signals.items()}
        return figures


class Superposition(Diagnostic):
    """Dimensions of what a routed layer reads, by hidden units that run: ``SP_l = F_l / C_l``.

    ``F_l = (sum lam)^2 / sum lam^2`` of the covariance, ``C_l`` = mean over tokens of the widths of
    the experts that ran. Capacity is short where it is large.
    """

    unit = "dimensions by hidden unit, from 0"
    source = "DynaMoE (arXiv 2603.01697), equation 30"
    scope = "model"
    cheap = False
    needs_gradients = True

    def figures(self, probe: Probe) -> Figures:
        figures: Figures = {}
        for name, h in layer_inputs(probe).items():
            layer = probe.model.get_submodule(name)
            widths = h.new_tensor([float(e.width) for e in layer.experts.values()]).double()  # type: ignore[operator]
            capacity = float((probe.routed[name].chosen.double() @ widths).mean())
            if capacity > 0:
                figures[name] = participation(covariance(h)) / capacity
        return figures


def fitting(demand: Mapping[str, float], least: int, most: int) -> dict[str, float]:
    """Experts for demands, from ``least`` to ``most``, not rounded; all ``most`` where equal."""
    low, high = min(demand.values()), max(demand.values())
    return {
        name: least + (most - least) * ((value - low) / (high - low) if high > low else 1.0)
        for name, value in demand.items()
    }


def standardised(values: Sequence[float]) -> list[float]:
    """z-scores; 0 where all are equal."""
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    return [(value - mean) / spread if spread > 0 else 0.0 for value in values]


def covariance(h: Tensor) -> Tensor:
    """Of features [..., D], float64 [D, D]."""
    rows_MD = h.flatten(0, -2).double()
    centred = rows_MD - rows_MD.mean(0)
    return centred.T @ centred / len(rows_MD)


def participation(covariance_DD: Tensor) -> float:
    """``(sum lam)^2 / sum lam^2`` of the eigenvalues; 0 for constant features."""
    squares = float(covariance_DD.square().sum())
    return float(covariance_DD.trace()) ** 2 / squares if squares > 0 else 0.0


def _signals(probe: Probe, layer: str, h: Tensor) -> dict[str, float]:
    gradients_ND = input_gradients(probe, layer)
    covariance_DD = covariance(h)
    return {
        "entropy": _entropy(covariance_DD),
        "curvature": curvature(probe, layer, h, 1),
        "complexity": _deflated(h),
        "gradient_variance": float(gradients_ND.var(0, correction=0).sum()),
        "co_adaptation": _correlated(covariance_DD),
    }


def _entropy(covariance_DD: Tensor) -> float:
    """Differential entropy of a Gaussian, in nats for each dimension."""
    size = len(covariance_DD)
    jitter = JITTER * covariance_DD.new_ones(size).diag()
    log = float((covariance_DD + jitter).logdet())
    return 0.5 * (math.log(2 * math.pi * math.e) + log / size)


def _deflated(h: Tensor) -> float:
    """Bytes for each number, 0 to about 1, of features rounded to 256 steps of their range."""
    low, high = float(h.min()), float(h.max())
    steps = ((h - low) / ((high - low) or 1.0) * 255).round().byte().cpu().contiguous()
    raw = steps.numpy().tobytes()
    return len(zlib.compress(raw, 6)) / len(raw)


def _correlated(covariance_DD: Tensor) -> float:
    """Mean |correlation| of two units, over pairs that vary."""
    spread_D = covariance_DD.diag().sqrt()
    kept = spread_D > 0
    if int(kept.sum()) < 2:
        return 0.0
    r = covariance_DD[kept][:, kept] / (spread_D[kept, None] * spread_D[kept])
    off = r.abs().sum() - r.abs().diag().sum()
    return float(off / (len(r) * (len(r) - 1)))
