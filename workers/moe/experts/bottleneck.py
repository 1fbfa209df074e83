"""The bottleneck expert: two layers with a narrow middle. Knows nothing of routing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workers.moe.growth.budget import width_for_budget


class Bottleneck(nn.Module):
    """Two-layer expert V relu(U x + b) + c whose width keeps the layer's parameter budget."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of a bottleneck expert."""

        kind: str = "bottleneck"
        width: int | None = None
        """Hidden units of one expert; None = what the dense layer's budget allows."""

        def __post_init__(self) -> None:
            if self.width is not None and self.width < 1:
                raise ValueError(f"width must be at least 1, got {self.width}")

    def __init__(self, config: Config, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.up = nn.Linear(inputs, width)
        self.down = nn.Linear(width, outputs)

    @staticmethod
    def width_for(config: Config, inputs: int, outputs: int, experts: int) -> int:
        """Hidden width of each of ``experts`` experts of one layer."""
        return config.width or width_for_budget(inputs, outputs, experts)

    def tensors(self) -> tuple[Tensor, ...]:
        """Up weight [H, D], its bias, down weight [O, H], its bias."""
        return self.up.weight, self.up.bias, self.down.weight, self.down.bias

    @torch.no_grad()
    def zero_output(self) -> None:
        """Make the expert answer 0 to everything, leaving its hidden units as they are."""
        self.down.weight.zero_()
        self.down.bias.zero_()

    @torch.no_grad()
    def narrow(self, width: int, x_TD: Tensor) -> Tensor:
        """Keep the ``width`` hidden units that matter most on ``x`` and refit the output map.

        Score of unit j: ``|U_j| |V_j| mean_x relu(u_j x + b_j)``; V is refitted by ridge
        regression to the hidden response of the full expert. Returns the kept units, ascending.
        """
        hidden_TH = torch.relu(self.up(x_TD))
        score_H = self.up.weight.norm(dim=1) * self.down.weight.norm(dim=0) * hidden_TH.mean(0)
        order_H = torch.sort(score_H, descending=True, stable=True).indices
        kept = order_H[:width].sort().values
        wanted_TO = hidden_TH @ self.down.weight.t()
        self.down.weight = nn.Parameter(_ridge(hidden_TH[:, kept], wanted_TO))
        self.up.weight = nn.Parameter(self.up.weight[kept].clone())
        self.up.bias = nn.Parameter(self.up.bias[kept].clone())
        self.up.out_features = self.down.in_features = self.width = width
        return kept


def _ridge(hidden_TH: Tensor, wanted_TO: Tensor, strength: float = 1e-4) -> Tensor:
    """``argmin_V |hidden V^T - wanted|^2 + lam |V|^2`` as [O, H], lam relative to the mean unit."""
    hidden, wanted = hidden_TH.double(), wanted_TO.double()
    gram = hidden.t() @ hidden
    lam = strength * gram.diagonal().mean() + torch.finfo(torch.float32).tiny
    gram.diagonal().add_(lam)
    return torch.linalg.solve(gram, hidden.t() @ wanted).t().to(hidden_TH.dtype).contiguous()
