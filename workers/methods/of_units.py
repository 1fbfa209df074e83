"""What methods that look at single units have in common: what they keep follows the model.

Letters: U units of all places, one place behind the other; H units of one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from workers.contract import EditReport, derive_seed
from workers.edits import Change
from workers.methods.base import Method, MethodContext
from workers.supervised.objectives import Objective
from workers.units.activity import Activity, Seen
from workers.units.renewal import renew
from workers.units.side import Side, Units


class OfUnits(Method):
    """Base of methods that make units new between steps, by what they did in the steps before.

    ``figures`` [U] are kept by name for each unit: 0 for a new one, and left bit for bit as they
    are for one that an edit leaves. A unit is looked at and changed only in steps in which all
    that it is made of and all that reads it has learnt, so that what is frozen, masked or reached
    by no token stays as it is. Draws come from a generator of the method's own.
    """

    figures: ClassVar[tuple[str, ...]] = ()
    """Names of what is kept for each unit, float64."""
    works_with: ClassVar[frozenset[str]] = frozenset({"supervised", "rl"})

    def __init__(self, config: Any, seed: int, objective: Objective | None = None) -> None:
        super().__init__(config, seed, objective)
        self.rng = torch.Generator().manual_seed(derive_seed(seed, "units"))
        self.activity: Activity | None = None
        self.kept: dict[str, dict[str, Tensor]] = {}
        """Place -> figure -> values [H]."""
        self.renewed = 0
        """Units made new so far."""

    # ------------------------------------------------------------ a step

    def step(self, units: dict[str, Units], seen: Seen, learnt_U: Tensor) -> Tensor:
        """Bring the figures up to date and say which units (bool [U]) are to be made new.

        ``learnt_U``: those that may be looked at and changed.
        """
        raise NotImplementedError

    def figure(self, name: str) -> Tensor:
        """One figure of all units, [U]; to be put back with ``set_figure``."""
        return torch.cat([kept[name] for kept in self.kept.values()])

    def set_figure(self, name: str, values_U: Tensor) -> None:
        """Keep these values."""
        sizes = [len(kept[name]) for kept in self.kept.values()]
        for kept, values in zip(self.kept.values(), values_U.split(sizes), strict=True):
            kept[name] = values.clone()

    def after_step(self, context: MethodContext) -> None:
        activity = self.activity
        assert activity is not None, "the model is watched from its opening on"
        seen, units = activity.take(context.total), activity.units
        if not units:
            return
        learnt = torch.tensor([part.learnt for part in units.values()])
        learnt_U = learnt.repeat_interleave(torch.tensor(activity.sizes)) & (seen.rows > 0)
        chosen_U = self.step(units, seen, learnt_U) & learnt_U
        if not chosen_U.any():
            return
        parts = chosen_U.split(activity.sizes)
        chosen = [(u, part.nonzero()[:, 0]) for u, part in zip(units.values(), parts, strict=True)]
        renew(chosen, self.rng, context.optimizer)
        self.renewed += int(chosen_U.sum())
        for name in self.figures:
            self.set_figure(name, self.figure(name).masked_fill(chosen_U, 0.0))

    # ------------------------------------------------------------ the model changes

    def watch(self, model: nn.Module) -> None:
        if self.activity is not None:
            self.activity.close()
        self.activity = Activity(model)
        self._fit()

    def edited(self, context: MethodContext, report: EditReport) -> None:
        if context.change is not None:
            self._narrow(context.change, context.model)
        self._fit()

    def _fit(self) -> None:
        """Figures for the units that there are now, in their order."""
        assert self.activity is not None
        self.kept = {
            place: self.kept.get(place)
            or {name: torch.zeros(units.count, dtype=torch.float64) for name in self.figures}
            for place, units in self.activity.units.items()
        }

    def _narrow(self, change: Change, model: nn.Module) -> None:
        """Keep the figures of units that are left of a place, not those of ones made new."""
        assert self.activity is not None
        names = {parameter: name for name, parameter in model.named_parameters()}
        for place, units in self.activity.units.items():
            side = units.incoming[0]
            name, kept = names[side.parameter], self.kept[place]
            if name in change.narrowed:
                left = change.narrowed[name][2][: units.count]
                kept = {key: values_H[left] for key, values_H in kept.items()}
            new_H = renewed(side, change.cleared.get(name, ()))
            self.kept[place] = {key: v_H.masked_fill(new_H, 0.0) for key, v_H in kept.items()}

    # ------------------------------------------------------------ state

    def state(self) -> dict[str, Tensor]:
        kept = {
            f"{name}/{place}": values.clone()
            for place, figures in self.kept.items()
            for name, values in figures.items()
        }
        return {"rng": self.rng.get_state(), "renewed": torch.tensor(self.renewed)} | kept

    def load_state(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        self.rng.set_state(state["rng"].cpu().clone())
        self.renewed = int(state["renewed"])
        self.kept = {}
        for key, values in state.items():
            name, _, place = key.partition("/")
            if name in self.figures:
                self.kept.setdefault(place, {})[name] = values.cpu().clone()


def renewed(side: Side, cleared: Any) -> Tensor:
    """Units whose entries of this side an edit drew anew, bool [H]; ``cleared``: what
    ``Change.cleared`` says of its parameter."""
    first_H = side.places_HK[:, 0]
    if cleared is None:
        return torch.ones(len(first_H), dtype=torch.bool)
    found_H = torch.zeros(len(first_H), dtype=torch.bool)
    for dim, places in cleared:
        if dim == side.dim:
            found_H |= torch.isin(first_H, places.cpu())
    return found_H
