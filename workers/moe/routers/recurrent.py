"""The recurrent router: its scores depend on how the layers below routed the token.

RMoE (arXiv 2408.06793). Letters: T tokens, D inputs, H numbers of the state, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from workers.contract import InputError
from workers.moe.routers.base import Router, RouterContext
from workers.moe.routers.linear import LinearRouter


class RecurrentRouter(LinearRouter):
    """s_l = GRU(P_l x_l, s_{l-1}), r_l = W_l s_l + b_l over depth (RMoE, arXiv 2408.06793).

    The state [T, H] goes from layer to layer (and from round to round of a chain); before the first
    it is 0. All layers of a model share one GRU, which belongs to the router of the first; each has
    its own projection P and rows W. Nothing is carried from token to token or over time.
    """

    aim = Router.aim
    start_from = Router.start_from
    as_linear = Router.as_linear

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the recurrent router."""

        kind: str = "recurrent"
        size: int = 32
        """H: numbers of the state."""
        bias: bool = True
        """Whether each expert has a trained bias."""

        def __post_init__(self) -> None:
            if self.size < 1:
                raise ValueError(f"size must be at least 1, got {self.size}")

    def __init__(self, config: Config, inputs: int) -> None:
        super().__init__(LinearRouter.Config(bias=config.bias), config.size)
        self.project = nn.Linear(inputs, config.size)
        self.cell: nn.GRUCell | None = nn.GRUCell(config.size, config.size)
        self._lent: tuple[nn.GRUCell, ...] = ()
        """Another router's GRU: in a tuple, so that it is no part of this module."""

    @property
    def gru(self) -> nn.GRUCell:
        """The GRU of all layers."""
        return self.cell if self.cell is not None else self._lent[0]

    def share(self, first: Router) -> None:
        """Use the GRU of the first layer's router and give up the own one."""
        if first is self:
            return
        if not isinstance(first, RecurrentRouter) or first.inputs != self.inputs:
            raise InputError(
                "recurrent routers of one model share a GRU, so all its routed layers must have "
                "router recurrent of one size"
            )
        self.cell, self._lent = None, (first.gru,)

    def forward(self, x_TD: Tensor, context: RouterContext) -> Tensor:
        """Logits [T, E]."""
        return self.route(x_TD, context)[0]

    def route(self, x_TD: Tensor, context: RouterContext) -> tuple[Tensor, Tensor | None]:
        """Logits [T, E] and the state [T, H] for the next layer."""
        projected_TH = self.project(x_TD)
        before = context.below
        if before is not None and len(before) != len(x_TD):
            raise InputError(
                f"router recurrent: {len(x_TD)} tokens after a layer of {len(before)}; a state can "
                "only go with its token, so no layer may change their number"
            )
        state_TH = self.gru(projected_TH, before)
        return super().forward(state_TH, context), state_TH
