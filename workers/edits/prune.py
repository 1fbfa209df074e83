"""Removal of experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from workers.edits.base import Change, Edit, EditProbe, Forward

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune(Edit):
    """These experts are gone afterwards, with their rows in the routers and their optimizer state.

    The others keep ids, order and bits; no id is given again. Growth counts those removed too, so
    that "6 experts" later means as many new ones as it would have without. Experts keep their
    width.
    """

    noun: ClassVar[str] = "removal"

    kind: Literal["prune"] = "prune"
    experts: dict[str, tuple[int, ...]]
    """Routed layer -> ids of the experts that are not to be there."""

    def text(self) -> str:
        parts = [f"{', '.join(map(str, ids))} of {layer}" for layer, ids in self.experts.items()]
        return f"experts removed: {'; '.join(parts)}"

    def of(self, layer: str) -> tuple[int, ...]:
        """Ids removed of one layer."""
        return self.experts.get(layer, ())

    def plan(
        self, module: nn.Module, probe: EditProbe | None, forward: Forward
    ) -> Callable[[], Change]:
        from workers.moe.growth.removal import plan_removal

        change = plan_removal(module, self.experts)

        def prune() -> Change:
            change()
            return Change()

        return prune
