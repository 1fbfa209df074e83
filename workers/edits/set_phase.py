"""Phases: which parts of the model are trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from workers.edits.base import Change, Edit, EditProbe, Forward

if TYPE_CHECKING:
    from torch import nn

Role = Literal["router", "backbone", "experts"]
"""What a phase may train: routers, experts, and all the rest of the model."""

ROLES: tuple[Role, ...] = get_args(Role)
"""All of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPhase(Edit):
    """Only these roles are trained afterwards (DES-MoE, arXiv 2509.16882, equation 11)."""

    noun: ClassVar[str] = "phase"

    kind: Literal["set_phase"] = "set_phase"
    phase: str
    """Its name, for people."""
    trains: tuple[Role, ...]
    counts_only: bool = False
    """Whether tokens are only counted while it lasts: no domain is kept from any expert."""

    def text(self) -> str:
        return f"phase {self.phase}: {' and '.join(self.trains)} train"

    def plan(
        self, module: nn.Module, probe: EditProbe | None, forward: Forward
    ) -> Callable[[], Change]:
        from workers.moe.domains.specialise import plan_phase

        change = plan_phase(module, self)
        return lambda: Change(parents=change())
