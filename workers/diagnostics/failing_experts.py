"""Detectors of experts that fail: collapsed, used by one domain only, ignored by their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from workers.diagnostics.base import Diagnostic, Figures, Probe, Scope
from workers.diagnostics.routing import several, shares

if TYPE_CHECKING:
    from torch import Tensor

MOST = 256
"""Tokens that an expert is run on."""


class ExpertCollapse(Diagnostic):
    """Experts whose hidden activations are nearly all 0 (collapse): how many in each layer.

    ``<layer>``: experts with more than ``limit`` of their activations at 0, over the tokens that
    chose them (at most 256, of all rounds); ``<layer>/<expert>``, by id: that share. An expert
    without an activation function inside is judged by its output; one that no token chose is left
    out.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Diagnostic.Config):
        """From when on an expert has collapsed."""

        kind: str = "expert_collapse"
        limit: float = 0.9
        """Share of activations at 0."""

        def __post_init__(self) -> None:
            _check_share("limit", self.limit)

    unit = "experts (expert: share of activations, 0..1)"
    source = "HoME (arXiv 2408.05430), expert collapse"
    scope: ClassVar[Scope] = "task"
    cheap = False

    config: Config

    def figures(self, probe: Probe) -> Figures:
        import torch

        from workers.moe.routed import observing, routed_layers

        found: Figures = {}
        if not routed_layers(probe.model):
            return found
        with observing(probe.model) as seen:
            probe.model(probe.inputs)
        for name, layer in routed_layers(probe.model).items():
            zero: dict[int, float] = {}
            for place, expert in enumerate(layer.experts.values()):
                own = [routed.x[routed.chosen[:, place]] for routed in seen[name]]
                x_TD = spaced(torch.cat(own)) if own else probe.inputs[:0]
                if len(x_TD):
                    zero[layer.ids[place]] = zero_share(expert, x_TD)
            found |= {f"{name}/{number}": share for number, share in zero.items()}
            found[name] = float(sum(share > self.config.limit for share in zero.values()))
        return found


class ExpertDegradation(Diagnostic):
    """Experts that nearly only one domain uses though all may (degradation): how many a layer.

    Share of the domain that weighs an expert most in ``sum_d A[d, e]``, A[d, e] = the expert's mean
    share of domain d's gate weights: ``<layer>/<expert>``, 1 / domains = used alike. ``<layer>``:
    experts above ``limit``; experts with less than ``0.01 / E`` of the load are left out.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Diagnostic.Config):
        """From when on a shared expert is no longer shared."""

        kind: str = "expert_degradation"
        limit: float = 0.9
        """Share of one domain."""

        def __post_init__(self) -> None:
            _check_share("limit", self.limit)

    unit = "experts (expert: share, 0..1)"
    source = "HoME (arXiv 2408.05430), expert degradation"
    scope: ClassVar[Scope] = "model"

    config: Config

    def figures(self, probe: Probe) -> Figures:
        found: Figures = {}
        for layer, use_DE in _use(probe):
            numbers = probe.routed[layer].numbers
            total_E = use_DE.sum(0)
            peak_E = (use_DE.amax(0) / total_E.clamp_min(1e-30)).tolist()
            load_E = (total_E / len(use_DE)).tolist()
            peaks = {
                number: peak
                for number, peak, load in zip(numbers, peak_E, load_E, strict=True)
                if load >= 0.01 / len(load_E)
            }
            found |= {f"{layer}/{e}": peak for e, peak in peaks.items()}
            found[layer] = float(sum(peak > self.config.limit for peak in peaks.values()))
        return found


class ExpertUnderfitting(Diagnostic):
    """Domains that ignore the experts kept for them (underfitting): how many in each layer.

    An expert is a domain's own where it was copied for it, or where the gradient mask lets that
    domain alone train it. ``<layer>/<domain>``: the own experts' share of the domain's gate
    weights over their share if all experts were weighed alike, 1 = no preference; ``<layer>``:
    domains below ``limit``. Nothing where no domain has experts of its own.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Diagnostic.Config):
        """From when on a domain ignores its own experts."""

        kind: str = "expert_underfitting"
        limit: float = 0.5
        """Weight of the own experts, as a ratio to an even one."""

        def __post_init__(self) -> None:
            _check_share("limit", self.limit)

    unit = "domains (domain: ratio, from 0)"
    source = "HoME (arXiv 2408.05430), expert underfitting"
    scope: ClassVar[Scope] = "model"

    config: Config

    def figures(self, probe: Probe) -> Figures:
        from workers.moe.routed import routed_layers

        found: Figures = {}
        layers = routed_layers(probe.model)
        for name, use_DE in _use(probe):
            ratios: dict[str, float] = {}
            for domain, use_E in zip(probe.domains, use_DE.tolist(), strict=True):
                own = own_experts(layers[name], domain, probe.domains)
                if own and sum(use_E):
                    ratios[domain] = sum(use_E[e] for e in own) * len(use_E) / len(own)
            if ratios:
                found |= {f"{name}/{domain}": ratio for domain, ratio in ratios.items()}
                found[name] = float(sum(ratio < self.config.limit for ratio in ratios.values()))
        return found


def spaced(x_TD: Tensor) -> Tensor:
    """At most ``MOST`` rows, evenly spaced: samples may lie in the order of their classes."""
    import torch

    few = min(MOST, len(x_TD))
    return x_TD[torch.arange(few, device=x_TD.device) * len(x_TD) // max(1, few)]


def zero_share(expert: Any, x_TD: Tensor) -> float:
    """Share of an expert's activations that are exactly 0; of its outputs where it has none."""
    import torch

    from workers.diagnostics.observing import seeing

    with torch.no_grad(), seeing(expert) as seen:
        with seen:
            outputs = expert(x_TD)
        features = list(seen.activations.values()) or [outputs]
    zeros = sum(int((one == 0).sum()) for one in features)
    return zeros / max(1, sum(one.numel() for one in features))


def own_experts(layer: Any, domain: str, domains: tuple[str, ...]) -> list[int]:
    """Places of the experts that are kept for a domain."""
    mask = layer.mask
    found = []
    for place, (number, birth) in enumerate(layer.births.items()):
        trainers = [d for d in domains if mask is None or mask.trains(d, number)]
        if birth.owner == domain or (mask is not None and trainers == [domain]):
            found.append(place)
    return found


def _use(probe: Probe) -> Any:
    """Layer -> mean share of each domain's gate weights, float64 [D, E]; of several domains."""
    import torch

    if len(probe.domains) < 2:
        return
    for layer, gates in several(probe):
        parts = probe.by_domain(shares(gates.weights))
        empty = gates.weights.new_zeros(gates.weights.shape[1], dtype=torch.float64)
        yield layer, torch.stack([part.mean(0) if len(part) else empty for part in parts])


def _check_share(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be above 0 and at most 1, got {value}")
