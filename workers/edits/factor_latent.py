"""Input maps of experts factorised through one projection of their layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from workers.contract import derive_seed
from workers.contract.errors import InputError
from workers.edits.base import Change, Edit, EditProbe, Forward

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorLatent(Edit):
    """Bottleneck experts become shared-latent ones: ``W_e ~ B_e A`` (MoLAE, arXiv 2503.23100).

    A [rank, inputs] belongs to the layer and takes the first right singular vectors of its
    experts' input maps, stacked; ``B_e = W_e A^T``: no other pair of that rank has a smaller
    squared error, which is the sum of the squared singular values left out. Output maps and biases
    stay, with their optimizer state; A and B_e start without. Shared experts stay as they are, and
    experts born later read through A.
    """

    noun: ClassVar[str] = "factorisation"

    kind: Literal["factor_latent"] = "factor_latent"
    rank: int
    """R: numbers of the latent, at most the layer's inputs."""
    layers: tuple[str, ...] | None = None
    """Names of the routed layers; None = all of them."""

    def text(self) -> str:
        return f"input maps of experts factorised at rank {self.rank}"

    def plan(
        self, module: nn.Module, probe: EditProbe | None, forward: Forward
    ) -> Callable[[], Change]:
        from workers.moe.routed import chosen_layers

        parts = chosen_layers(module, self.layers, "factorisation of experts")
        for name, layer in parts.items():
            self._check(name, layer)

        def factor() -> Change:
            for name, layer in parts.items():
                layer.factor(self.rank, derive_seed(self.seed, name))
            return Change()

        return factor

    def _check(self, name: str, layer: Any) -> None:
        where = f"factorisation of experts, layer {name!r}"
        if not 1 <= self.rank <= layer.inputs:
            raise InputError(
                f"{where}: rank {self.rank}; allowed are 1 to {layer.inputs}, the layer's inputs"
            )
        if layer.experts.rank not in (None, self.rank):
            raise InputError(
                f"{where}: its experts read through {layer.experts.rank} numbers already; give "
                "that rank, or factorise an earlier checkpoint"
            )
        whole = layer.experts.unfactored(self.rank)
        if whole:
            raise InputError(
                f"{where}: experts {', '.join(whole)} have no form that reads through a shared "
                "projection; use expert bottleneck"
            )
        if layer.frozen & layer.births.keys():
            raise InputError(
                f"{where}: experts {sorted(layer.frozen & layer.births.keys())} are frozen for "
                "good, and a projection that others teach would change them; factorise before "
                "they are frozen"
            )
