"""Gradient masks: which experts each domain may train."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from workers.edits.base import Change, Edit, EditProbe, Forward

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """An expert that ``RefreshMask`` copies, so that a domain has its own."""

    expert: int
    """Id of the copy."""
    parent: int
    owner: str
    """Domain whose tokens alone train the copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshMask(Edit):
    """Which experts each domain may train, in every layer, afterwards.

    DES-MoE (arXiv 2509.16882), equations 6 and 9. All that decided the mask stands in the edit.
    """

    noun: ClassVar[str] = "mask"

    kind: Literal["refresh_mask"] = "refresh_mask"
    version: int
    """Number of the mask within the lane, from 1."""
    domains: tuple[str, ...]
    """Row order of ``masks`` and ``usage``."""
    masks: dict[str, list[list[int]]]
    """Layer -> domain -> 0 or 1 for each expert by id, copies included. Experts beyond a row's end
    (born by growth that was decided together with the mask) may be trained."""
    fallback: dict[str, list[list[int]]] = field(default_factory=dict)
    """Layer -> domain -> the row that holds instead where the one of ``masks`` names no expert and
    growth has brought the layer none: a schedule may give a layer nothing."""
    usage: dict[str, list[list[float]]] = field(default_factory=dict)
    """Layer -> domain -> share of the domain's tokens that chose each expert by id (matrix A)."""
    copies: dict[str, list[Duplicate]] = field(default_factory=dict)
    """Layer -> experts this edit copies, in order of their ids."""
    exclusive: bool = False
    """Whether tokens of other domains cannot choose a copy in training."""
    owners: dict[str, dict[str, str]] = field(default_factory=dict)
    """Layer -> expert id -> owning domain: of the copies, or of claimed experts."""

    def text(self) -> str:
        copies = sum(len(made) for made in self.copies.values())
        return f"mask version {self.version}" + (f", {copies} copies" if copies else "")

    def on(self, born: Mapping[str, int]) -> RefreshMask:
        """The edit as it holds for layers that had so many experts: ``fallback`` put in where it
        must."""
        masks = {
            layer: [
                spare if not any(row) and len(row) >= born.get(layer, 0) else row
                for row, spare in zip(rows, self.fallback.get(layer, rows), strict=True)
            ]
            for layer, rows in self.masks.items()
        }
        return replace(self, masks=masks)

    def plan(
        self, module: nn.Module, probe: EditProbe | None, forward: Forward
    ) -> Callable[[], Change]:
        from workers.moe.domains.specialise import plan_mask
        from workers.moe.growth.growable import shape

        born = {name: layer.born for name, layer in shape(module).layers.items()}
        change = plan_mask(module, self.on(born))
        return lambda: Change(parents=change())
