"""Routers fitted to data without a gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from workers.edits.base import Change, Edit, EditProbe, Forward

if TYPE_CHECKING:
    from torch import nn


Targets = Literal["labels", "domains", "losses", "errors"]
"""What a token is told of: its sample's label, the place of its domain; or for each expert its
sample's loss if the layer had that expert alone, or the error against the dense layer that the
experts were cut from (their sum)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRouter(Edit):
    """The routers of the layers set their parameters from probe samples in one go.

    Each router's ``fit(x_TD, y, seed)`` gets what it reads of the samples and the ``targets`` of
    each token. Every worker of a lane holds the same probe, so all fit alike.
    """

    noun: ClassVar[str] = "router fit"

    kind: Literal["fit_router"] = "fit_router"
    layers: tuple[str, ...] | None = None
    """Names of the routed layers; None = all of them."""
    targets: Targets = "domains"
    """What a router is fitted to."""

    def text(self) -> str:
        where = "all layers" if self.layers is None else ", ".join(self.layers)
        return f"routers of {where} fitted to {self.targets}"

    def plan(
        self, module: nn.Module, probe: EditProbe | None, forward: Forward
    ) -> Callable[[], Change]:
        from workers.moe.growth.fitting import plan_fit

        change = plan_fit(module, self, probe, forward)

        def fit() -> Change:
            change()
            return Change(rebind=False)

        return fit
