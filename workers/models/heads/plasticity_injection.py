"""Plasticity injection: fresh parameters at each growth without any change of the output."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import Tensor, nn

from workers.contract import Json, LayerShape, derive_seed
from workers.models.heads.mlp import MLP
from workers.moe.growth.growable import Growable, Grown, Growth, count_parameters, freeze, like


class PlasticityInjection(Growable):
    """Freezes the head and adds a fresh one minus its frozen copy (Nikishin, arXiv 2305.15555).

    ``y = f_0(x) + sum_i (f_i(x) - frozen copy of f_i(x))``; only the last ``f_i`` learns. One
    injection for each multiple of the experts at the start, so that it happens whenever a
    growing mixture would grow.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(MLP.Config):
        """Settings of plasticity injection."""

        kind: str = "plasticity_injection"

    def __init__(
        self,
        config: Config,
        inputs: int,
        outputs: int,
        experts: int = 1,
        max_experts: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config, self.inputs, self.outputs = config, inputs, outputs
        self._unit = self._live = experts
        self.heads = nn.ModuleDict({"0": self._head(seed)})
        self.copies = nn.ModuleDict()

    @property
    def live(self) -> int:
        return self._live

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        y: Tensor = self.heads["0"](x)
        for name, copied in self.copies.items():
            y = y + (self.heads[name](x) - copied(x))
        return y

    def grow(self, growth: Growth) -> Grown:
        return Grown(parents=[None] * self._reach(self.target(growth.experts), growth.seed))

    def _reach(self, experts: int, seed: int) -> int:
        """Inject until the number of injections fits ``experts``; returns how many were made."""
        before = len(self.copies)
        for number in range(before + 1, -(-experts // self._unit)):
            freeze(self.heads[str(number - 1)])
            self.heads[str(number)] = like(self._head(derive_seed(seed, number)), self)
            self.copies[str(number)] = copy.deepcopy(self.heads[str(number)])
            freeze(self.copies[str(number)])
        self._live = experts
        return len(self.copies) - before

    def _head(self, seed: int) -> MLP:
        return MLP(self.config, self.inputs, self.outputs, seed=seed)

    def layer_shape(self) -> LayerShape:
        widths = (self.config.hidden[0] if self.config.hidden else 0,) * len(self.heads)
        return LayerShape(experts=self.live, widths=widths, parameters=count_parameters(self))

    def arch(self) -> Json:
        return {"experts": self._live, "unit": self._unit}

    def ensure_arch(self, arch: Json) -> None:
        self._unit = arch["unit"]
        for number in range(-(-arch["experts"] // self._unit), len(self.heads)):
            del self.heads[str(number)], self.copies[str(number)]
        self._reach(arch["experts"], 0)
        for name in list(self.heads)[-1:]:
            self.heads[name].requires_grad_(True)
