"""Diagnostics of routing: what the routed layers did with the evaluated tokens.

The load of an expert is the mean over tokens of its share of the token's gate weights, which for
one chosen expert is the share of tokens that chose it, and also tells something where every
expert runs. Layers with a single expert have no routing. Letters: T tokens, E experts, D domains.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from workers.contract import Json
from workers.diagnostics import tables
from workers.diagnostics.base import Diagnostic, Figures, Gates, Probe, Scope

if TYPE_CHECKING:
    from torch import Tensor


class OfLayer(Diagnostic):
    """Base of diagnostics that look at one routed layer at a time."""

    scope: ClassVar[Scope] = "task"

    def figures(self, probe: Probe) -> Figures:
        return {layer: self.of(gates) for layer, gates in several(probe)}

    @abstractmethod
    def of(self, gates: Gates) -> float:
        """The value of one layer with at least two experts."""


class ConditionalEntropy(OfLayer):
    """Mean over tokens of the entropy of a token's gate weights, as a share of ln E.

    ``mean_x[-sum_e p_e(x) ln p_e(x)] / ln E``. Low with a high marginal entropy: experts are told
    apart; both low: collapse; both high: no routing.
    """

    unit = "share of ln E, 0..1"
    source = "Shannon entropy of the gates"

    def of(self, gates: Gates) -> float:
        share_TE = shares(gates.weights)
        return float(_entropy(share_TE).mean()) / math.log(share_TE.shape[1])


class MarginalEntropy(OfLayer):
    """Entropy of the experts' load, as a share of ln E: ``H(mean_x p(x)) / ln E``."""

    unit = "share of ln E, 0..1"
    source = "Shannon entropy of the mean gates"

    def of(self, gates: Gates) -> float:
        load_E = load(gates)
        return tables.entropy(load_E) / math.log(len(load_E))


class LoadCV(OfLayer):
    """Coefficient of variation of the experts' load: ``std_e(f_e) / mean_e(f_e)``, 0 = balanced."""

    unit = "ratio, from 0"
    source = "Shazeer et al. 2017 (arXiv 1701.06538)"

    def of(self, gates: Gates) -> float:
        return tables.load_cv(load(gates))


class LoadPeak(OfLayer):
    """Largest over mean load: ``max_e f_e / mean_e f_e``, 1 = balanced, E = collapse."""

    unit = "ratio, 1..E"
    source = "Shazeer et al. 2017 (arXiv 1701.06538)"

    def of(self, gates: Gates) -> float:
        return tables.load_peak(load(gates))


class DeadExperts(OfLayer):
    """Experts whose load is below ``0.01 / E``."""

    unit = "experts"
    source = "share of the load below one hundredth of the balanced one"

    def of(self, gates: Gates) -> float:
        return float(tables.dead_experts(load(gates)))


class SwitchBalance(OfLayer):
    """Balance of the Switch Transformer, ``E sum_e f_e P_e``: 1 = balanced, E = collapse.

    f_e: share of tokens whose largest probability is expert e's; P_e: its mean probability.
    """

    unit = "ratio, from 1 where f and P agree"
    source = "Fedus et al. 2022 (arXiv 2101.03961), equation 4"

    def of(self, gates: Gates) -> float:
        p_TE = gates.probabilities.double()
        experts = p_TE.shape[1]
        f_E = p_TE.argmax(-1).bincount(minlength=experts).double() / len(p_TE)
        return float(experts * (f_E * p_TE.mean(0)).sum())


class ExpertsPerToken(Diagnostic):
    """Mean number of experts that run for a token; ``<layer>/variance``, ``<layer>/k=<n>``.

    ``k=<n>`` is the share of tokens with n experts, told of each n that occurs.
    """

    unit = "experts (variance: experts squared; k=n: share, 0..1)"
    source = "DynaMoE (arXiv 2603.01697), E[k]"
    scope = "task"

    def figures(self, probe: Probe) -> Figures:
        found: Figures = {}
        for layer, gates in several(probe):
            k_T = gates.chosen.sum(-1)
            found[layer] = float(k_T.double().mean())
            found[f"{layer}/variance"] = float(k_T.double().var(correction=0))
            for k, tokens in enumerate(k_T.bincount().tolist()):
                if tokens:
                    found[f"{layer}/k={k}"] = tokens / len(k_T)
        return found


class CoSelection(OfLayer):
    """How much more often two experts run for one token than by chance: 1 = independent.

    Mean over pairs of experts that were ever chosen of ``P(e and e') / (P(e) P(e'))``.
    """

    unit = "ratio, from 0"
    source = "pointwise mutual information without its logarithm"
    cheap = False

    def of(self, gates: Gates) -> float:
        chosen_TE = gates.chosen.double()
        both_EE, share_E = chosen_TE.T @ chosen_TE / len(chosen_TE), chosen_TE.mean(0)
        lift = [
            float(both_EE[a, b] / (share_E[a] * share_E[b]))
            for a in range(len(share_E))
            for b in range(a)
            if share_E[a] and share_E[b]
        ]
        return sum(lift) / len(lift) if lift else 0.0


class Specialisation(Diagnostic):
    """How far the expert tells the domain: ``I(D;E) / H(D)`` over all tasks' domains.

    From the present router on the test parts of every task, so that it also tells something of a
    stream which trains one domain a stage. Nothing where there is one domain only.
    """

    unit = "share of H(D), 0..1"
    source = "normalised mutual information of domain and expert"
    scope = "model"

    def figures(self, probe: Probe) -> Figures:
        return {layer: tables.specialisation(mass) for layer, mass in _by_domain(probe)}


class DomainOverlap(Diagnostic):
    """Overlap of the experts that two domains use, mean over pairs of domains.

    ``sum_e min(A_d, A_d') / sum_e max(A_d, A_d')``, A_d = the experts' load on domain d.
    """

    unit = "share, 0..1"
    source = "weighted Jaccard index; DES-MoE (arXiv 2509.16882) gives no formula"
    scope = "model"

    def figures(self, probe: Probe) -> Figures:
        found: Figures = {}
        for layer, mass in _by_domain(probe):
            loads = [[x / sum(row) for x in row] for row in mass if sum(row)]
            if len(loads) > 1:
                found[layer] = tables.mean_pairs(loads, tables.weighted_jaccard)
        return found


class ExpertRelevance(Diagnostic):
    """Relevance of each expert for each domain, by tokens and by gate weights.

    ``tokens``: share of the choices that fall on the expert (the largest weight counts where all
    experts run for every token); ``gates``: mean gate weight. Sums of ``tokens`` are 1.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Diagnostic.Config):
        """Settings of the sample."""

        kind: str = "expert_relevance"
        samples: int = 1024
        """Training samples of each domain that are looked at at the start of a stage."""

        def __post_init__(self) -> None:
            if self.samples < 1:
                raise ValueError(f"samples must be at least 1, got {self.samples}")

    unit = "share, 0..1"
    source = "ESFT (arXiv 2407.01906), token and gate score"
    scope = "task"
    cheap = False

    config: Config

    @property
    def samples(self) -> int:
        return self.config.samples

    def told(self, probe: Probe) -> Json:
        """``{layer: {domain: {"tokens": [share of each expert], "gates": [mean weight]}}}``, by id,
        0 for experts that were removed."""
        told: dict[str, dict[str, dict[str, list[float]]]] = {}
        for layer, gates in probe.routed.items():
            parts = zip(probe.domains, probe.by_domain(gates.weights), strict=False)
            sets = probe.by_domain(gates.chosen)
            told[layer] = {
                domain: {
                    "tokens": gates.by_id(_token_share(chosen_TE, weights_TE)).tolist(),
                    "gates": gates.by_id(weights_TE.double().mean(0)).tolist(),
                }
                for (domain, weights_TE), chosen_TE in zip(parts, sets, strict=True)
                if len(weights_TE)
            }
        return told

    def figures(self, probe: Probe) -> Figures:
        """``<layer>/<domain>/<score>/<expert>``."""
        return {
            f"{layer}/{domain}/{score}/{expert}": value
            for layer, domains in self.told(probe).items()
            for domain, scores in domains.items()
            for score, values in scores.items()
            for expert, value in enumerate(values)
        }


def several(probe: Probe) -> Iterator[tuple[str, Gates]]:
    """The layers in which there is something to route: at least two experts and one token."""
    for layer, gates in probe.routed.items():
        if gates.weights.shape[1] > 1 and len(gates.weights):
            yield layer, gates


def shares(weights_TE: Tensor) -> Tensor:
    """Gate weights that sum to 1 for each token, float64; a token that no expert ran for has 0."""
    weights_TE = weights_TE.double()
    return weights_TE / weights_TE.sum(-1, keepdim=True).clamp_min(1e-30)


def load(gates: Gates) -> list[float]:
    """Mean over tokens of each expert's share of the token's gate weights [E]."""
    mean: list[float] = shares(gates.weights).mean(0).tolist()
    return mean


def _by_domain(probe: Probe) -> Iterator[tuple[str, list[list[float]]]]:
    """Routed layer -> mass of each expert on each domain [D][E], in tokens, of several domains."""
    if len(probe.domains) < 2:
        return
    for layer, gates in several(probe):
        yield layer, [part.sum(0).tolist() for part in probe.by_domain(shares(gates.weights))]


def _token_share(chosen_TE: Tensor, weights_TE: Tensor) -> Tensor:
    experts = chosen_TE.shape[1]
    if bool(chosen_TE.all()):
        counts_E = weights_TE.argmax(-1).bincount(minlength=experts).double()
    else:
        counts_E = chosen_TE.double().sum(0)
    return counts_E / counts_E.sum().clamp_min(1.0)


def _entropy(share_TE: Tensor) -> Tensor:
    """``-sum p ln p`` over the last dimension, in nats [T]."""
    return -(share_TE * share_TE.clamp_min(1e-300).log()).sum(-1)
