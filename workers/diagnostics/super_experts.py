"""Experts whose answers are so large that a model breaks without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from workers.contract import Json
from workers.diagnostics.base import Diagnostic, Figures, Probe

QUANTILE, PART_OF_MAXIMUM, DEPTH = 0.995, 0.1, 0.75


class SuperExperts(Diagnostic):
    """Experts with an extreme output activation, never to be pruned.

    a_e = the largest absolute entry of an expert's outputs over the tokens that chose it; e is
    super if ``a_e > P_99.5(all experts of all layers)`` and ``a_e > max a / 10``, in the first
    75 % of the routed layers, at least one (arXiv 2507.23279). The percentile interpolates between
    values, so that of few experts the largest is one.
    """

    unit = "largest output activation, from 0"
    source = "Super Experts (arXiv 2507.23279), identification"
    scope = "task"
    cheap: ClassVar[bool] = False

    @property
    def samples(self) -> int:
        return 64

    def told(self, probe: Probe) -> Json:
        """``{layer: [ids of its super experts]}``, for every routed layer."""
        from workers.diagnostics.expert_outputs import peaks

        return supers(peaks(probe))

    def figures(self, probe: Probe) -> Figures:
        """``<layer>/<expert>``: the largest activation of each super expert."""
        from workers.diagnostics.expert_outputs import peaks

        found = peaks(probe)
        return {
            f"{layer}/{expert}": found[layer][expert]
            for layer, experts in supers(found).items()
            for expert in experts
        }


def supers(peaks: Mapping[str, Mapping[int, float]]) -> dict[str, list[int]]:
    """Layer -> ids of its super experts, given the largest activation of each expert by id."""
    every = sorted(peak for layer in peaks.values() for peak in layer.values())
    found: dict[str, list[int]] = {name: [] for name in peaks}
    if not every:
        return found
    bar = max(_percentile(every, QUANTILE), PART_OF_MAXIMUM * every[-1])
    for name in list(peaks)[: max(1, int(DEPTH * len(peaks)))]:
        found[name] = [expert for expert, peak in peaks[name].items() if peak > bar]
    return found


def _percentile(values: Sequence[float], share: float) -> float:
    """Linear between the two nearest of the sorted values."""
    place = share * (len(values) - 1)
    low = min(int(place), len(values) - 2) if len(values) > 1 else 0
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])
