"""Diagnostic: what a domain's own experts are worth, by switching them off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from workers.diagnostics.base import Diagnostic, Figures, Gates, Probe, Scope
from workers.diagnostics.routing import several
from workers.diagnostics.use import contrast

if TYPE_CHECKING:
    from torch import Tensor

Place = tuple[str, int]
"""Layer and place of an expert."""


class ExpertAblation(Diagnostic):
    """Change of each domain's score when the experts that mark one domain are switched off.

    Experts of all layers are ranked by ``a_e(A) - a_e(B)``, the share of tokens that use an expert
    in domain A, less that in the others; the ``top`` ones get ``r_e = -inf``, but a layer keeps its
    last expert. ``<A>/<B>``: score on B without A's experts, less the score with them;
    ``<A>/<layer>/<expert>`` (by id): the difference of use by which it was ranked. Where there are
    no targets (agents), the score is the share of answers whose largest output stays.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Diagnostic.Config):
        """How many experts are switched off."""

        kind: str = "expert_ablation"
        top: int = 1
        """Experts of a domain, of all layers together."""

        def __post_init__(self) -> None:
            if self.top < 1:
                raise ValueError(f"top must be at least 1, got {self.top}")

    unit = "score, -1..1 (experts: share of tokens, -1..1)"
    source = "Mixture of Tunable Experts (arXiv 2502.11096)"
    scope: ClassVar[Scope] = "model"
    cheap = False

    config: Config

    def figures(self, probe: Probe) -> Figures:
        if len(probe.domains) < 2 or probe.inputs_domain is None or not len(probe.inputs):
            return {}
        plain = probe.model(probe.inputs)
        found: Figures = {}
        for domain, ranks in self._ranks(probe):
            best = sorted(ranks, key=lambda place: -ranks[place])[: self.config.top]
            found |= {
                f"{domain}/{layer}/{probe.routed[layer].numbers[e]}": ranks[layer, e]
                for layer, e in best
            }
            without = self._without(probe, best)
            for place, other in enumerate(probe.domains):
                inside = probe.inputs_domain == place
                if bool(inside.any()):
                    found[f"{domain}/{other}"] = _change(probe, plain, without, inside)
        return found

    def _ranks(self, probe: Probe) -> Iterator[tuple[str, dict[Place, float]]]:
        """Domain -> how much more each expert is used in it than in the others."""
        parts = {layer: _split(probe, gates) for layer, gates in several(probe)}
        for place, domain in enumerate(probe.domains):
            ranks: dict[Place, float] = {}
            for layer, by_domain in parts.items():
                own = by_domain[place]
                others = [g for n, g in enumerate(by_domain) if n != place and len(g.chosen)]
                if len(own.chosen) and others:
                    scores = contrast([own], others)
                    ranks |= {(layer, e): score for e, score in enumerate(scores)}
            if ranks:
                yield domain, ranks

    def _without(self, probe: Probe, places: list[Place]) -> Tensor:
        """Answers of the model with these experts off."""
        import torch

        from workers.inference.steering import steerable, steered, without

        layers, rules = steerable(probe.model), {}
        for name in dict.fromkeys(layer for layer, _ in places):
            off = [e for layer, e in places if layer == name][: layers[name].live - 1]
            off_E = torch.zeros(layers[name].live, dtype=torch.bool, device=probe.inputs.device)
            off_E[off] = True
            rules[name] = without(off_E)
        with steered(layers, rules):
            answers: Tensor = probe.model(probe.inputs)
        return answers


def _split(probe: Probe, gates: Gates) -> list[Gates]:
    """Gates of one layer, by domain."""
    parts: Any = zip(
        probe.by_domain(gates.weights),
        probe.by_domain(gates.chosen),
        probe.by_domain(gates.probabilities),
        strict=True,
    )
    return [Gates(weights=w, chosen=c, probabilities=p) for w, c, p in parts]


def _change(probe: Probe, plain: Tensor, without: Tensor, inside: Tensor) -> float:
    """Score of the answers without some experts less that with them, on some of the inputs."""
    if probe.score is None or probe.targets is None:
        same = plain[inside].argmax(-1) == without[inside].argmax(-1)
        return float(same.double().mean()) - 1.0
    return probe.scored(without, inside) - probe.scored(plain, inside)
