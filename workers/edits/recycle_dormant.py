"""Dormant units made new."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from workers.contract.errors import InputError
from workers.edits.base import Change, Edit, EditProbe, Forward

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class RecycleDormant(Edit):
    """Units that hardly fire on the probe are made new: ReDo (Sokar et al., arXiv 2302.12902).

    Dormant, definition 3.1: ``mean_x|h_i| <= tau * mean_k mean_x|h_k|`` over the units of a layer,
    filters of a convolution, or hidden units of an expert over the tokens that chose it. Incoming
    weights are drawn as at first, outgoing ones are 0, and the optimizer forgets what it kept for
    both (algorithm 1). Units with anything frozen stay, and so do those of experts that no token
    of the probe chose.
    """

    noun: ClassVar[str] = "recycling"

    kind: Literal["recycle_dormant"] = "recycle_dormant"
    tau: float
    """Score, as a share of the layer's mean one, up to which a unit is dormant."""

    def text(self) -> str:
        return f"units dormant at {self.tau:g} recycled"

    def plan(
        self, module: nn.Module, probe: EditProbe | None, forward: Forward
    ) -> Callable[[], Change]:
        import torch

        from workers.units.finding import units_of
        from workers.units.renewal import renew

        if not units_of(module):
            raise InputError(
                "recycling of dormant units: the model tells no units; use heads mlp or moe"
            )
        if probe is None:
            raise InputError("recycling of dormant units: there are no samples to judge units by")
        chosen = dormant(module, probe, forward, self.tau)

        def change() -> Change:
            renew(chosen.values(), torch.Generator().manual_seed(self.seed))
            names = {parameter: name for name, parameter in module.named_parameters()}
            cleared: dict[str, Any] = defaultdict(tuple)
            for units, which in chosen.values():
                for side in units.sides:
                    cleared[names[side.parameter]] += ((side.dim, side.of(which)),)
            figures = {f"recycled/{place}": float(len(w)) for place, (_, w) in chosen.items()}
            return Change(rebind=False, cleared=cleared, figures=figures)

        return change


def dormant(module: nn.Module, probe: EditProbe, forward: Forward, tau: float) -> dict[str, Any]:
    """Place -> (its units, those that are dormant on the probe, int64), where there are any."""
    import torch

    from workers.moe.growth.surgery import answer
    from workers.units.activity import Activity

    activity = Activity(module, always=True)
    try:
        answer(module, forward, probe)
        seen = activity.take()
    finally:
        activity.close()
    found: dict[str, Any] = {}
    scores, rows = (torch.split(values_U, activity.sizes) for values_U in (seen.mean, seen.rows))
    places = zip(activity.units.items(), scores, rows, strict=True)
    for (place, units), score_H, rows_H in places:
        which = (score_H <= tau * (score_H.mean() + 1e-9)).nonzero()[:, 0]
        if units.learns and bool(rows_H[0]) and len(which):
            found[place] = units, which
    return found
