"""Expanding MLP: a dense head whose hidden layers widen at each growth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.contract import Json, LayerShape, derive_seed
from workers.models.heads.mlp import Widths
from workers.moe.growth.growable import Growable, Grown, Growth, count_parameters, like
from workers.moe.perceptron import Stack
from workers.moe.seeding import seeded


class _Block(nn.Module):
    """What one growth adds to a linear map: columns to the right of the old rows, then rows."""

    def __init__(self, old: tuple[int, int], new: tuple[int, int], bound: float) -> None:
        super().__init__()
        (old_in, old_out), (new_in, new_out) = old, new
        self.right = _uniform(bound, old_out, new_in - old_in)
        self.below = _uniform(bound, new_out - old_out, new_in)
        self.bias = _uniform(bound, new_out - old_out)

    def put_on(self, weight: Tensor) -> Tensor:
        """The old weight with this block's columns and rows around it."""
        if self.right is not None:
            weight = torch.cat([weight, self.right], 1)
        if self.below is None:
            return weight
        return torch.cat([weight, self.below], 0) if len(weight) else self.below


def _uniform(bound: float, *shape: int) -> nn.Parameter | None:
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound)) if math.prod(shape) else None


class _ExpandingLinear(nn.Module):
    """A linear map that is the top-left corner of a full one, put together from its blocks."""

    def __init__(self, full_inputs: int) -> None:
        super().__init__()
        # the scale of the full map: a block is what would have been there from the start
        self._bound = 1 / math.sqrt(full_inputs)
        self._size = (0, 0)
        self.blocks = nn.ModuleList()

    def expand(self, inputs: int, outputs: int) -> None:
        self.blocks.append(_Block(self._size, (inputs, outputs), self._bound))
        self._size = (inputs, outputs)

    def shrink(self, blocks: int, inputs: int, outputs: int) -> None:
        self.blocks = self.blocks[:blocks]
        self._size = (inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        weight = x.new_zeros((0, 0))
        biases = []
        for block in self.blocks:
            weight = block.put_on(weight)  # type: ignore[operator]
            biases.append(block.bias)
        return functional.linear(x, weight, torch.cat([b for b in biases if b is not None]))  # type: ignore[misc]


class ExpandingMLP(Stack, Growable):
    """Dense head of which the first experts / max_experts of each hidden layer is in use."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Widths):
        """Settings of the expanding head; ``hidden`` are the final widths."""

        kind: str = "expanding_mlp"

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
        self._final = max_experts or experts
        self._full = [inputs, *config.hidden, outputs]
        self._steps: list[int] = []
        self.fill(_ExpandingLinear(size) for size in self._full[:-1])
        self._expand(experts, seed)

    @property
    def live(self) -> int:
        return self._steps[-1]

    def _sizes(self, experts: int) -> list[int]:
        """Layer sizes in use with ``experts``; input and output are always whole."""
        used = min(experts, self._final)
        inner = [max(1, width * used // self._final) for width in self._full[1:-1]]
        return [self._full[0], *inner, self._full[-1]]

    def _expand(self, experts: int, seed: int) -> None:
        sizes = self._sizes(experts)
        with seeded(derive_seed(seed, experts)):
            for layer, fan_in, fan_out in zip(self.layers, sizes[:-1], sizes[1:], strict=True):
                layer.expand(fan_in, fan_out)  # type: ignore[operator]
        self._steps.append(experts)
        like(self.layers, self)

    def grow(self, growth: Growth) -> Grown:
        added = self.target(growth.experts) - self.live
        if added > 0:
            self._expand(self.target(growth.experts), growth.seed)
        return Grown(parents=[None] * added)

    def layer_shape(self) -> LayerShape:
        widths = tuple(self._sizes(self.live)[1:-1])
        return LayerShape(experts=self.live, widths=widths, parameters=count_parameters(self))

    def arch(self) -> Json:
        return {"steps": list(self._steps), "final": self._final}

    def ensure_arch(self, arch: Json) -> None:
        steps, self._final = list(arch["steps"]), arch["final"]
        common = 0
        while self._steps[common : common + 1] == steps[common : common + 1] != []:
            common += 1
        self._steps = self._steps[:common]
        sizes = self._sizes(self._steps[-1]) if common else [0] * len(self._full)
        for layer, fan_in, fan_out in zip(self.layers, sizes[:-1], sizes[1:], strict=True):
            layer.shrink(common, fan_in, fan_out)  # type: ignore[operator]
        for experts in steps[common:]:
            self._expand(experts, 0)
