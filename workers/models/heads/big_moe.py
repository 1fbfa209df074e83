"""The head of heads: each expert is a whole MLP, under a single router."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from workers.models.heads.mlp import MLP, check_hidden
from workers.moe.bank import ExpertBank
from workers.moe.growth.schedules import EVERYWHERE


class BigMoE(ExpertBank):
    """Each expert is a whole dense head, one router on the features (DynamicMoE's big variant)."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(ExpertBank.Config):
        """Settings of the head of heads."""

        kind: str = "big_moe"
        hidden: tuple[int, ...] = (256, 256)
        """Widths of each expert's hidden layers."""

        def __post_init__(self) -> None:
            ExpertBank.Config.__post_init__(self)
            check_hidden(self.hidden)

    def __init__(
        self,
        config: Config,
        inputs: int,
        outputs: int,
        experts: int = 1,
        max_experts: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(config, inputs, outputs, experts, seed, EVERYWHERE)

    def make_expert(self, width: int | None = None) -> nn.Module:
        # drawn from the caller's seeded stream, so that each expert differs
        seed = int(torch.randint(2**31 - 1, (), device="cpu"))
        return MLP(MLP.Config(hidden=self.config.hidden), self.inputs, self.outputs, seed=seed)

    def mixture(self, x_TD: Tensor, gates_TE: Tensor, frozen: bool = False) -> Tensor:
        answer = _detached if frozen else _plain
        y_TEO = torch.stack([answer(expert, x_TD) for expert in self.experts.values()], 1)
        return (y_TEO * gates_TE.unsqueeze(-1)).sum(1)

    def on_rows(self, rows_SD: Tensor, offsets: Tensor, learning_S: Tensor | None = None) -> Tensor:
        bounds = offsets.tolist()
        sizes = [stop - start for start, stop in pairwise(bounds)]
        *parts, rest = rows_SD.split([*sizes, rows_SD.shape[0] - bounds[-1]])
        outputs = []
        for expert, part, start in zip(self.experts.values(), parts, bounds, strict=False):
            output = expert(part)
            if learning_S is not None:
                learning_S1 = learning_S[start : start + len(part)].unsqueeze(1)
                output = torch.where(learning_S1, output, _detached(expert, part))
            outputs.append(output)
        return torch.cat([*outputs, rest.new_zeros((rest.shape[0], self.outputs))])


def _plain(expert: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = expert(x)
    return y


def _detached(expert: nn.Module, x: Tensor) -> Tensor:
    """The expert's answer, whose gradient reaches ``x`` but not the expert's parameters."""
    frozen = {name: parameter.detach() for name, parameter in expert.named_parameters()}
    y: Tensor = torch.func.functional_call(expert, frozen, (x,))
    return y
