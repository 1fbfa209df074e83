"""Growth: more experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from workers.contract.identity import Json
from workers.contract.model_state import ModelState
from workers.edits.base import Change, Edit, EditProbe, Forward

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Grow(Edit):
    """The growable layers have ``experts`` experts afterwards, or their schedule's share of it."""

    noun: ClassVar[str] = "growth"

    kind: Literal["grow"] = "grow"
    experts: int
    """Of the largest layer."""
    layers: tuple[str, ...] | None = None
    """Names of the layers that grow; None = every growable one."""
    initialiser: Json = field(default_factory=lambda: {"kind": "random"})
    """Entry of ``workers.moe.INITIALISERS`` (or module:Class) with its settings."""
    reading: Literal["unmask", "rescale"] = "unmask"
    """``unmask``: widths fixed by the final count; ``rescale``: widths shrink at each growth."""
    optimizer: Literal["keep", "reset"] = "keep"

    def text(self) -> str:
        where = "" if self.layers is None else f" in {', '.join(self.layers)}"
        return f"grown to {self.experts} experts{where}"

    def fold(self, model: ModelState) -> ModelState:
        return replace(Edit.fold(self, model), experts=max(model.experts, self.experts))

    def plan(
        self, module: nn.Module, probe: EditProbe | None, forward: Forward
    ) -> Callable[[], Change]:
        from workers.moe.growth.surgery import plan_growth

        return plan_growth(module, self, probe, forward)
