"""What triggers look at: signals of an interval by name, and which of them a lane has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from orchestrator.policies.base import View
from orchestrator.policies.lane_checks import routed
from workers.contract import LaneSettings
from workers.tables import Problem

USAGE_ENTROPY = "usage_entropy"
DERIVED: Mapping[str, str] = {
    USAGE_ENTROPY: (
        "entropy of the experts' mean gate weights over the interval as a share of ln E (0 to 1, "
        "1 with one expert), mean over routed layers; usage_entropy/<layer>: of one"
    ),
}
"""Signals that follow from what every interval reports."""
VALIDATING = ("validation_score", "newest_gain")
"""Signals that need a validation part."""


def usage_entropies(view: View) -> dict[str, float]:
    """Layer -> ``-sum_e f_e ln f_e / ln E`` of its live experts' mean gate weights; 1 where E = 1.

    Empty at a stage's start.
    """
    found = {}
    for layer, by_id in ({} if view.report is None else view.report.gate_weights).items():
        shape = view.model.layers.get(layer)
        live = range(len(by_id)) if shape is None else shape.ids
        found[layer] = _entropy([by_id[number] for number in live if number < len(by_id)])
    return found


def _entropy(weights: Sequence[float]) -> float:
    total = sum(weights)
    if len(weights) < 2 or total <= 0:
        return 1.0
    shares = [weight / total for weight in weights if weight > 0]
    return -sum(share * math.log(share) for share in shares) / math.log(len(weights))


def seen(view: View, name: str) -> float | None:
    """The signal's value in the interval just finished; None where there is none."""
    base, _, layer = name.partition("/")
    if base != USAGE_ENTROPY:
        return view.signals.get(name)
    entropies = usage_entropies(view)
    if layer:
        return entropies.get(layer)
    return sum(entropies.values()) / len(entropies) if entropies else None


def unfilled(lane: LaneSettings, names: Sequence[str], path: str) -> list[Problem]:
    """Signals that nobody fills in this lane; ``path``: the setting that names them."""
    from workers import trainers

    always, on_request = trainers.signals(lane.trainer)
    derived = DERIVED if routed(lane) else {}
    known = {**always, **on_request, **derived}
    found = []
    for name in names:
        base = name.partition("/")[0]
        if base not in known:
            allowed = f"lanes of trainer {lane.trainer} have {', '.join(sorted(known))}"
            found.append(Problem(path, f"nobody fills a signal {name!r}", allowed))
        elif base in VALIDATING and not lane.validates:
            allowed = "set stream.validation above 0"
            found.append(Problem(path, f"signal {name!r} without a validation part", allowed))
    return found
