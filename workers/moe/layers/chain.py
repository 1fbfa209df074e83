"""Chain of experts: tokens pass the same experts several times, each time under another router."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from workers.contract import InputError
from workers.moe.layers.moe import Conditions, MoELayer


class ChainLayer(MoELayer):
    """x_c = x_{c-1} + sum_e g_{c,e} E_e(x_{c-1}), c = 1..C (Chain-of-Experts, arXiv 2506.18945).

    A router for each of C rounds over one set of experts: depth without parameters. With C = 1 it
    is a mixture with a residual. Inputs and outputs must be as many.
    """

    adds_up: ClassVar[bool] = False

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(MoELayer.Config):
        """Settings of a chain."""

        kind: str = "chain"
        rounds: int = 2
        """C: how often a token passes the experts."""

        def __post_init__(self) -> None:
            # super() has no cell to look in here: a dataclass with slots is a second class.
            MoELayer.Config.__post_init__(self)
            if self.rounds < 1:
                raise ValueError(f"rounds must be at least 1, got {self.rounds}")

    def __init__(self, config: Config, inputs: int, outputs: int, *args: Any, **more: Any) -> None:
        """As ``Layer``; raises InputError where inputs and outputs differ."""
        if inputs != outputs:
            raise InputError(
                f"a chain adds its rounds to its input, and this layer has {inputs} inputs and "
                f"{outputs} outputs; give it as many of both (a backbone or encoder as wide as the "
                "hidden layers, all of one width, dense_last = true)"
            )
        self._rounds = config.rounds
        super().__init__(config, inputs, outputs, *args, **more)

    @property
    def rounds(self) -> int:
        return self._rounds

    def _pass(self, x_TD: Tensor, conditions: Conditions) -> Tensor:
        for router in self.routers:
            x_TD = x_TD + self._round(router, x_TD, conditions)
        return x_TD
