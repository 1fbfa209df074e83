"""Adaptive routers take over from the ones trained so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from workers.edits.base import Change, Edit, EditProbe, Forward

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptRouter(Edit):
    """Adaptive routers start their second form, with the first one as its teacher.

    DES-MoE (arXiv 2509.16882), section 3.1.
    """

    noun: ClassVar[str] = "takeover"

    kind: Literal["adapt_router"] = "adapt_router"

    def text(self) -> str:
        return "adaptive routers take over from their linear teachers"

    def plan(
        self, module: nn.Module, probe: EditProbe | None, forward: Forward
    ) -> Callable[[], Change]:
        from workers.moe.domains.specialise import plan_adapt

        change = plan_adapt(module, self)
        return lambda: Change(parents=change())
