"""The linear map that grows by low-rank stages: each growth adds one and freezes those before.

Letters: T tokens, D inputs, O outputs, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.contract import InputError, Json, LaneSettings, LayerShape, derive_seed
from workers.moe.growth.growable import Growable, Grown, Growth, count_parameters, like
from workers.moe.growth.schedules import EVERYWHERE, Place
from workers.moe.layers.base import Layer
from workers.moe.seeding import seeded
from workers.tables import Problem


class LoRAStagesLayer(Growable, Layer):
    """W_s = a_0 W_0 + sum_{j <= s} a_j B_j A_j, y = W_s x + b (ScaleZero, arXiv 2509.07945).

    An "expert" is a stage s: the first one is W_0 [O, D], each growth adds a pair A [R, D], B
    [O, R] (LoRA, arXiv 2106.09685). In stage s only B_s, A_s, a_0 and the a_j with 0 < j < s learn,
    W_0 and b in stage 0 alone; a_s is 1 while its pair learns. B starts at 0, so that growth leaves
    the output as it is, bit for bit. Growth pays no heed to the initialiser.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of a linear map with low-rank stages."""

        kind: str = "lora_stages"
        rank: int = 8
        """R: rank of what one stage adds."""

        def __post_init__(self) -> None:
            if self.rank < 1:
                raise ValueError(f"rank must be at least 1, got {self.rank}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """A phase would train what a stage has frozen."""
            if "set_phase" not in lane.proposes:
                return []
            found = "a policy sets phases, which say anew what trains"
            return [Problem("kind", found, "use another layer, or take the policy of phases out")]

    def __init__(
        self,
        config: Config,
        inputs: int,
        outputs: int,
        experts: int = 1,
        max_experts: int | None = None,
        seed: int = 0,
        *,
        place: Place = EVERYWHERE,
    ) -> None:
        """As ``Layer``; raises InputError where it is to start with more than its first stage."""
        super().__init__()
        if place.count(experts) != 1:
            raise InputError(
                f"layer lora_stages would start with {place.count(experts)} stages, of which the "
                "first had never been trained; set model.experts = 1"
            )
        self.config, self.place, self.seed = config, place, seed
        self.inputs, self.outputs = inputs, outputs
        with seeded(seed):
            drawn = nn.Linear(inputs, outputs)
        self.weight, self.bias = drawn.weight, drawn.bias
        self.scales = nn.ParameterDict({"0": nn.Parameter(torch.ones(()))})
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        self._train_stage()

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        y = functional.linear(x, self.weight) * self.scales["0"]
        for stage, down_RD in self.down.items():
            part = functional.linear(functional.linear(x, down_RD), self.up[stage])
            y = y + part * self.scales[stage]
        return y + self.bias

    def draw_orthogonal(self, gain: float) -> None:
        """See ``Layer.draw_orthogonal``; for W_0."""
        with seeded(self.seed), torch.no_grad():
            nn.init.orthogonal_(self.weight, gain)
            nn.init.zeros_(self.bias)

    # ------------------------------------------------------------ growth

    @property
    def live(self) -> int:
        return len(self.scales)

    def target(self, experts: int) -> int:
        return self.place.count(experts)

    def grow(self, growth: Growth) -> Grown:
        added = self.target(growth.experts) - self.live
        for _ in range(added):
            self._add(derive_seed(growth.seed, self.live))
        self._train_stage()
        return Grown(parents=[None] * added)

    def _add(self, seed: int) -> None:
        """A further stage."""
        number, rank = str(self.live), self.config.rank
        with seeded(seed):
            pair = nn.ParameterDict(
                {
                    "down": nn.Linear(self.inputs, rank, bias=False).weight,
                    "up": nn.Parameter(torch.zeros(self.outputs, rank)),
                    "scale": nn.Parameter(torch.ones(())),
                }
            )
        like(pair, self)
        self.down[number], self.up[number] = pair["down"], pair["up"]
        self.scales[number] = pair["scale"]

    def _train_stage(self) -> None:
        """Let the last stage learn, and nothing else but the factors of those before."""
        last = str(self.live - 1)
        learns = {id(scale) for stage, scale in self.scales.items() if stage != last}
        own: tuple[Any, ...] = (self.weight, self.bias)
        if last != "0":
            own = (self.down[last], self.up[last])
        learns |= {id(parameter) for parameter in own}
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in learns)
            if id(parameter) not in learns:
                parameter.grad = None

    def layer_shape(self) -> LayerShape:
        widths = (0, *(self.config.rank for _ in self.down))
        return LayerShape(experts=self.live, widths=widths, parameters=count_parameters(self))

    # ------------------------------------------------------------ architecture

    def arch(self) -> Json:
        return {"stages": self.live, "rank": self.config.rank}

    def ensure_arch(self, arch: Json) -> None:
        if arch["rank"] != self.config.rank:
            raise InputError(
                f"the saved layer has stages of rank {arch['rank']}, the model {self.config.rank}; "
                "restore with the config that the checkpoint was made with"
            )
        for number in range(arch["stages"], self.live):
            for parts in (self.scales, self.down, self.up):
                del parts[str(number)]
        while self.live < arch["stages"]:
            self._add(0)  # every value is overwritten
        self._train_stage()
