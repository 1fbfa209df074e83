"""MoELayer: a linear map replaced by routed experts within the same parameter budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

import ops
from workers.contract import InputError, Json
from workers.moe.bank import ExpertBank
from workers.moe.experts import EXPERTS
from workers.moe.growth.growable import Grown, Growth
from workers.moe.growth.schedules import EVERYWHERE, Place
from workers.moe.mixture import ExpertWeights, dense_mixture
from workers.tables import choice, construct, lookup


class MoELayer(ExpertBank):
    """One linear map as a mixture of experts with its own router (DynamicMoE, arXiv 2511.18987).

    Takes [..., inputs], gives [..., outputs]. ``max_experts`` is the final number N that sets the
    width of the experts; ``experts`` are there from the start. Under ``place`` both numbers are
    the model's, and the layer takes its share.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(ExpertBank.Config):
        """Settings of one mixture-of-experts layer."""

        kind: str = "moe"
        expert: Any = choice(EXPERTS, "bottleneck")
        """What an expert is made of."""
        match_active: bool = False
        """Widths such that the experts one token passes, not all, cost one dense layer."""

    def __init__(
        self,
        config: Config,
        inputs: int,
        outputs: int,
        experts: int,
        max_experts: int | None,
        seed: int,
        *,
        place: Place = EVERYWHERE,
    ) -> None:
        self._final = max_experts or experts
        self._width: int | None = None
        super().__init__(config, inputs, outputs, experts, seed, place)

    def make_expert(self, width: int | None = None) -> nn.Module:
        if width is None:
            if self._width is None:
                self._width = self._budget(self.place.count(self._final))
            width = self._width
        expert: nn.Module = construct(EXPERTS, self.config.expert, self.inputs, self.outputs, width)
        return expert

    def _budget(self, experts: int) -> int:
        """Width of each expert when the layer has ``experts`` in all."""
        if self.config.match_active:
            limit = self.config.output_max_k or experts
            experts = min(limit, self.selector.active(experts), experts)
        kind: Any = lookup(EXPERTS, self.config.expert.kind, "expert.kind")
        width: int = kind.width_for(self.config.expert, self.inputs, self.outputs, experts)
        return width

    def weights(self, frozen: bool = False) -> ExpertWeights:
        """The experts' tensors, a list over experts for each role; ``frozen`` = detached."""
        tensors = zip(*(expert.tensors() for expert in self.experts.values()), strict=True)  # type: ignore[operator]
        if frozen:
            return tuple([tensor.detach() for tensor in role] for role in tensors)
        return tuple(list(role) for role in tensors)

    def mixture(self, x_TD: Tensor, gates_TE: Tensor, frozen: bool = False) -> Tensor:
        return dense_mixture(x_TD, gates_TE, self.weights(frozen))

    def on_rows(self, rows_SD: Tensor, offsets: Tensor, learning_S: Tensor | None = None) -> Tensor:
        return ops.expert_mlp(rows_SD, offsets, *self.weights(), learning_S=learning_S)

    def check(self, growth: Growth) -> None:
        if growth.reading == "unmask":
            return super().check(growth)
        if not hasattr(next(iter(self.experts.values())), "narrow"):
            raise InputError(
                f"reading 'rescale' makes experts narrower, but expert {self.config.expert.kind!r} "
                "has no hidden width; use expert 'bottleneck' or reading 'unmask'"
            )
        if growth.inputs is None:
            raise InputError(
                "reading 'rescale' refits the experts on probe data and got none; give a probe "
                "batch, or use reading 'unmask'"
            )
        self._budget(self.target(growth.experts))

    def grow(self, growth: Growth) -> Grown:
        narrowed = {}
        if growth.reading == "rescale" and self.target(growth.experts) > self.live:
            assert growth.inputs is not None
            width = self._budget(self.target(growth.experts))
            narrowed = self._narrow(width, growth.inputs.reshape(-1, self.inputs))
        grown = super().grow(growth)
        grown.narrowed = narrowed
        return grown

    def _narrow(self, width: int, x_TD: Tensor) -> dict[str, tuple[int, Tensor]]:
        """Shrink every wider expert to ``width``; see ``Grown.narrowed`` for what is returned."""
        narrowed: dict[str, tuple[int, Tensor]] = {}
        for number in self.births:
            if self.expert(number).width <= width:
                continue
            kept = self.expert(number).narrow(width, x_TD)
            cut = {"up.weight": 0, "up.bias": 0, "down.weight": 1}
            narrowed |= {f"experts.{number}.{name}": (dim, kept) for name, dim in cut.items()}
        self._width = min(self.expert(number).width for number in self.births)
        return narrowed

    def ensure_arch(self, arch: Json) -> None:
        super().ensure_arch(arch)
        self._width = self.expert(max(self.births)).width
