"""What is measured of a model beside its scores: one table, one function. Imports no torch.

``observing`` builds the probes that diagnostics look at, ``tables`` holds the arithmetic that the
driver's reports share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from workers.diagnostics.base import Diagnostic, Figures, Gates, Probe, Scope
from workers.diagnostics.capacity import RdcIndex, Superposition
from workers.diagnostics.contrast_gain import ContrastGain
from workers.diagnostics.difficulty import ExpertsByLoss
from workers.diagnostics.expert_ablation import ExpertAblation
from workers.diagnostics.expert_event_npmi import ExpertEventNPMI
from workers.diagnostics.failing_experts import (
    ExpertCollapse,
    ExpertDegradation,
    ExpertUnderfitting,
)
from workers.diagnostics.k_curve import KCurve
from workers.diagnostics.output_aware import OutputAware
from workers.diagnostics.patterns import ActiveFlops, RoutingPatterns
from workers.diagnostics.plasticity import (
    DormantRatio,
    EffectiveRank,
    GradientNorms,
    ParticipationRatio,
    SRank,
    WeightDistance,
    WeightNorm,
    ZeroActivationRatio,
)
from workers.diagnostics.prune_probe import PruneProbe
from workers.diagnostics.routing import (
    ConditionalEntropy,
    CoSelection,
    DeadExperts,
    DomainOverlap,
    ExpertRelevance,
    ExpertsPerToken,
    LoadCV,
    LoadPeak,
    MarginalEntropy,
    Specialisation,
    SwitchBalance,
)
from workers.diagnostics.sensitivity import Curvature, GateGradientVariance
from workers.diagnostics.super_experts import SuperExperts
from workers.diagnostics.use_clusters import UseClusters
from workers.parsing import choose
from workers.tables import Problem

DIAGNOSTICS: dict[str, type] = {
    "conditional_entropy": ConditionalEntropy,
    "marginal_entropy": MarginalEntropy,
    "load_cv": LoadCV,
    "load_peak": LoadPeak,
    "dead_experts": DeadExperts,
    "switch_balance": SwitchBalance,
    "experts_per_token": ExpertsPerToken,
    "experts_by_loss": ExpertsByLoss,
    "co_selection": CoSelection,
    "specialisation": Specialisation,
    "domain_overlap": DomainOverlap,
    "expert_relevance": ExpertRelevance,
    "output_aware": OutputAware,
    "super_experts": SuperExperts,
    "prune_probe": PruneProbe,
    "expert_ablation": ExpertAblation,
    "expert_event_npmi": ExpertEventNPMI,
    "expert_collapse": ExpertCollapse,
    "expert_degradation": ExpertDegradation,
    "expert_underfitting": ExpertUnderfitting,
    "k_curve": KCurve,
    "contrast_gain": ContrastGain,
    "dormant_ratio": DormantRatio,
    "zero_activation_ratio": ZeroActivationRatio,
    "effective_rank": EffectiveRank,
    "srank": SRank,
    "participation_ratio": ParticipationRatio,
    "weight_norm": WeightNorm,
    "weight_distance": WeightDistance,
    "gradient_norms": GradientNorms,
    "routing_patterns": RoutingPatterns,
    "active_flops": ActiveFlops,
    "gate_gradient_variance": GateGradientVariance,
    "curvature": Curvature,
    "rdc_index": RdcIndex,
    "superposition": Superposition,
    "use_clusters": UseClusters,
}
"""Diagnostics by name."""

PLASTICITY_ENTRIES: tuple[Any, ...] = (
    "dormant_ratio",
    {"kind": "dormant_ratio", "tau": 0.1, "name": "dormant_ratio_0.1"},
    "zero_activation_ratio",
    "effective_rank",
    "srank",
    "participation_ratio",
    "weight_norm",
    "weight_distance",
    "gradient_norms",
)
"""What loss of plasticity is looked at by, gradients on the probe included."""
CHEAP, ALL, PLASTICITY = "cheap", "all", "plasticity"
"""Entries of a list of diagnostics that stand for every cheap one, for every one, and for
``PLASTICITY_ENTRIES``."""


def chosen(entries: Iterable[Any], path: str) -> tuple[dict[str, Diagnostic], list[Problem]]:
    """(name of its figures -> diagnostic, problems) of a list as in a config.

    An entry is ``"cheap"``, ``"plasticity"``, ``"all"``, a name, ``module:Class``, or a table with
    ``kind``.
    """
    found: dict[str, Diagnostic] = {}
    problems: list[Problem] = []
    for number, entry in enumerate(entries):
        for raw in _meant(entry):
            where = f"{path}.{number}"
            cls, config, wrong = choose(DIAGNOSTICS, raw, where)
            problems += wrong
            if cls is None or config is None:
                continue
            name = config.name or config.kind.rpartition(":")[2]
            known = found.get(name)
            if known is not None and known.config != config:
                allowed = "give one of them a name of its own: {kind = ..., name = ...}"
                problems.append(Problem(where, f"two diagnostics are called {name!r}", allowed))
            found[name] = cls(config)
    return found, problems


def made(entries: Iterable[Any]) -> dict[str, Diagnostic]:
    """Name of its figures -> diagnostic, of a list that was checked before."""
    found, problems = chosen(entries, "diagnostics")
    assert not problems, [str(problem) for problem in problems]
    return found


def refuse_unknown(entries: Iterable[Any]) -> None:
    """Raise ValueError where an entry of a config's ``diagnostics`` names or sets nothing known."""
    problems = chosen(entries, "diagnostics")[1]
    if problems:
        raise ValueError("; ".join(map(str, problems)))


def measure(
    probe: Probe, diagnostics: Mapping[str, Diagnostic], scopes: Iterable[Scope]
) -> Figures:
    """``<name>/<key>`` -> value of every diagnostic of these scopes; see ``Diagnostic.figures``."""
    from workers.moe.stepping import telling

    wanted = set(scopes)
    found: Figures = {}
    for name, diagnostic in diagnostics.items():
        if diagnostic.scope not in wanted:
            continue
        with telling(probe.model, probe.told):
            figures = diagnostic.figures(probe)
        found |= {f"{name}/{key}" if key else name: value for key, value in figures.items()}
    return found


def _meant(entry: Any) -> list[Any]:
    """What an entry of a list of diagnostics stands for."""
    if entry == ALL:
        return list(DIAGNOSTICS)
    if entry == CHEAP:
        return [name for name, cls in DIAGNOSTICS.items() if cls.cheap]  # type: ignore[attr-defined]
    if entry == PLASTICITY:
        return list(PLASTICITY_ENTRIES)
    return [entry]


__all__ = [
    "ALL",
    "CHEAP",
    "DIAGNOSTICS",
    "Diagnostic",
    "Figures",
    "Gates",
    "Probe",
    "Scope",
    "chosen",
    "made",
    "measure",
    "refuse_unknown",
]
