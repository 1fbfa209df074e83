"""Experts of lesser rank replaced by vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from workers.contract.errors import InputError
from workers.edits.base import Change, Edit, EditProbe, Forward

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressExperts(Edit):
    """Only the ``main`` best experts of a token run afterwards; vectors stand in for the others.

    ``y = sum_{i<=main} a_i E_i(x * theta)``, ``theta = sum_{i>main} a'_i theta_i`` with theta_i
    [inputs] a new parameter of each expert, 1 at first (Compressed Experts, arXiv 2503.00634).
    At the edit the scaling changes nothing, and the output moves by what the experts that no
    longer run had added. A token chooses, is counted and teaches as before.
    """

    noun: ClassVar[str] = "compression"

    kind: Literal["compress_experts"] = "compress_experts"
    main: int
    """k_m: experts of a token that run."""
    layers: tuple[str, ...] | None = None
    """Names of the routed layers; None = all of them."""

    def text(self) -> str:
        return f"experts compressed: {self.main} run for a token, vectors stand in for the others"

    def plan(
        self, module: nn.Module, probe: EditProbe | None, forward: Forward
    ) -> Callable[[], Change]:
        from workers.moe.routed import chosen_layers

        if self.main < 1:
            raise InputError(f"compression of experts: main must be at least 1, got {self.main}")
        parts = chosen_layers(module, self.layers, "compression of experts")
        for name, layer in parts.items():
            if not layer.compresses:
                raise InputError(
                    f"compression of experts, layer {name!r}: {type(layer).__name__} leaves the "
                    "weighting of experts to another library; use layer moe or chain"
                )
            empty = [n for n, e in layer.experts.items() if next(e.parameters(), None) is None]
            if empty:
                raise InputError(
                    f"compression of experts, layer {name!r}: experts {', '.join(empty)} have no "
                    "parameters, so that no vector could learn to stand in for them; leave the "
                    "layer out, or use experts that have some"
                )
            active = math.ceil(layer.selector.active(layer.live))
            if self.main >= active:
                raise InputError(
                    f"compression of experts, layer {name!r}: {active} experts run for a token, "
                    f"and main = {self.main} leaves none to stand in for; give less"
                )

        def compress() -> Change:
            for layer in parts.values():
                layer.compress(self.main)
            return Change()

        return compress
