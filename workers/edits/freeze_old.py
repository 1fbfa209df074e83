"""Old experts stop learning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from workers.edits.base import Change, Edit, EditProbe, Forward

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeOld(Edit):
    """In every routed layer that has grown, all experts but those of the latest growth stop
    learning, with their router rows and their thresholds, for good.

    The latest growth: the experts born in the latest stage in which growth added any.
    """

    noun: ClassVar[str] = "freeze"

    kind: Literal["freeze_old"] = "freeze_old"

    def text(self) -> str:
        return "experts older than the latest growth frozen"

    def plan(
        self, module: nn.Module, probe: EditProbe | None, forward: Forward
    ) -> Callable[[], Change]:
        from workers.moe.growth.freezing import plan_freeze

        return plan_freeze(module)
