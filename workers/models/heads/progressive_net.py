"""Progressive network: a new column at each growth, fed sideways by the frozen older ones."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from workers.contract import Json, LayerShape, derive_seed
from workers.models.heads.mlp import Widths
from workers.moe.growth.growable import Growable, Grown, Growth, count_parameters, freeze, like
from workers.moe.seeding import seeded


class _Column(nn.Module):
    """One column: its own layers and, above the first, an adapter on the older columns.

    ``h_i = act(W_i h_{i-1} + A_i(a_i concat(older h_{i-1})))``, ``a_i`` a learnt scalar that
    starts in [-0.01, 0.01].
    """

    def __init__(self, sizes: list[int], older: int) -> None:
        super().__init__()
        pairs = list(pairwise(sizes))
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)
        self.adapters = nn.ModuleList()
        self.scales = nn.ParameterList()
        for fan_in, fan_out in pairs[1:] if older else []:
            narrow, wide = nn.Linear(older * fan_in, fan_in), nn.Linear(fan_in, fan_out)
            self.adapters.append(nn.Sequential(narrow, nn.ReLU(), wide))
            self.scales.append(nn.Parameter(torch.empty(()).uniform_(-0.01, 0.01)))

    def forward(self, x: Tensor, older: list[list[Tensor]]) -> list[Tensor]:
        """Activations of every layer; ``older[c][i]`` is what layer i of column c gave."""
        given: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if older and i:
                sideways = torch.cat([column[i - 1] for column in older], -1)
                x = x + self.adapters[i - 1](self.scales[i - 1] * sideways)
            if i < len(self.layers) - 1:
                x = torch.relu(x)
            given.append(x)
        return given


class ProgressiveNet(Growable):
    """Adds a column with adapters on the frozen older ones (Rusu et al., arXiv 1606.04671).

    Only the last column answers. One column for each multiple of the experts at the start.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Widths):
        """Settings of the progressive network."""

        kind: str = "progressive_net"

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
        self._sizes = [inputs, *config.hidden, outputs]
        self._unit, self._live = experts, experts
        self.columns = nn.ModuleDict()
        self._reach(experts, seed)

    @property
    def live(self) -> int:
        return self._live

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs] of the last column."""
        given: list[list[Tensor]] = []
        for column in self.columns.values():
            given.append(column(x, given))
        return given[-1][-1]

    def grow(self, growth: Growth) -> Grown:
        return Grown(parents=[None] * self._reach(self.target(growth.experts), growth.seed))

    def _reach(self, experts: int, seed: int) -> int:
        """Add columns until their number fits ``experts``; returns how many were added."""
        before = len(self.columns)
        for number in range(before, -(-experts // self._unit)):
            freeze(self.columns)
            with seeded(derive_seed(seed, number)):
                self.columns[str(number)] = like(_Column(self._sizes, number), self)
        self._live = experts
        return len(self.columns) - before

    def layer_shape(self) -> LayerShape:
        width = self._sizes[1] if len(self._sizes) > 2 else 0
        return LayerShape(
            experts=self.live,
            widths=(width,) * len(self.columns),
            parameters=count_parameters(self),
        )

    def arch(self) -> Json:
        return {"experts": self._live, "unit": self._unit}

    def ensure_arch(self, arch: Json) -> None:
        self._unit = arch["unit"]
        for number in range(-(-arch["experts"] // self._unit), len(self.columns)):
            del self.columns[str(number)]
        self._reach(arch["experts"], 0)
        for name in list(self.columns)[-1:]:
            self.columns[name].requires_grad_(True)
