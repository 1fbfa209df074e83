"""Experts that run for every token of a layer, beside those that its router chooses.

Letters: T tokens, K shared experts, D inputs, O outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.contract import InputError
from workers.moe.experts.base import Expert
from workers.moe.experts.expert_set import class_of
from workers.moe.growth.budget import Size
from workers.moe.seeding import seeded
from workers.moe.selection import exact


class SharedExperts(nn.ModuleList):
    """``sum_i g_i(x) E_i(x)`` over experts that no router and no mask keeps from a token.

    ``g_i`` is 1 (shared experts of DeepSeekMoE, arXiv 2401.06066), or with gates
    ``sigmoid(w_i x)``, taken in float32 (Time-MoE, arXiv 2409.16040).
    """

    gates_KD: nn.Parameter | None

    def __init__(self, experts: Iterable[Expert]) -> None:
        super().__init__(experts)
        self.gates_KD = None

    def add_gates(self, inputs: int) -> None:
        """Give each expert a gate, drawn as torch draws a Linear(inputs, 1) without bias."""
        bound = 1 / math.sqrt(inputs)
        self.gates_KD = nn.Parameter(torch.empty(len(self), inputs).uniform_(-bound, bound))

    def forward(self, x_TD: Tensor, steps: int | None = None) -> Tensor | None:
        """[T, O], or None without experts; ``steps``: tokens of a sequence, which lie together,
        for experts that read sequences (None = there are none)."""
        outputs = [self._answer(expert, x_TD, steps) for expert in self]
        if not outputs:
            return None
        if self.gates_KD is not None:
            g_TK = functional.linear(exact(x_TD), exact(self.gates_KD)).sigmoid()
            outputs = [
                y_TO * g_T1.to(y_TO.dtype)
                for y_TO, g_T1 in zip(outputs, g_TK.split(1, 1), strict=True)
            ]
        y_TO: Tensor = sum(outputs[1:], outputs[0])
        return y_TO

    def _answer(self, expert: Any, x_TD: Tensor, steps: int | None) -> Tensor:
        if not expert.reads_sequences:
            alone: Tensor = expert(x_TD)
            return alone
        if steps is None:
            raise InputError(
                f"shared expert {type(expert).__name__} reads sequences, and this layer is given "
                "single tokens; use it in a model of sequences (decoder), or have it read features"
            )
        y_BSO: Tensor = expert(x_TD.reshape(-1, steps, x_TD.shape[1]))
        return y_BSO.flatten(0, 1)


class SharedForms:
    """Forms of shared experts that are not the form of the routed ones, and what they cost."""

    def __init__(self, table: dict[str, type], forms: Sequence[Any], count: int) -> None:
        self._forms = [(class_of(table, config), config) for config in forms]
        self._count = count

    def __bool__(self) -> bool:
        return bool(self._forms)

    def make(self, number: int, size: Size) -> Expert:
        """The ``number``-th shared expert of a layer with ``size.experts`` routed ones.

        Where its form takes its width from the budget, it gets an equal share of it.
        """
        cls, config = self._forms[number % len(self._forms)]
        width = cls.width_for(config, [size._replace(experts=size.experts + self._count)])
        made: Expert = cls(config, size.inputs, size.outputs, width)
        part = cls.common_part(config, size.inputs, size.outputs)
        if part is not None:
            made.attach(part)
            made.add_module("common", part)
        return made

    def cost(self, size: Size, gated: bool) -> int:
        """Weights of all shared experts of such a layer, gates included and biases left out."""
        with torch.device("meta"), seeded(0):
            made = [self.make(number, size) for number in range(self._count)]
        weights = (p.numel() for expert in made for p in expert.parameters() if p.dim() > 1)
        return sum(weights) + gated * self._count * size.inputs
