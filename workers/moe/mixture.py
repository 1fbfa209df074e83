"""The dense mixture: every expert on every token, as few matrix products.

Letters: T tokens, E experts, D inputs, H hidden units of all experts together, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

ExpertWeights = tuple[list[Tensor], ...]
"""Lists over experts: up, up_bias, down, down_bias; linear experts have only the first two."""


def dense_mixture(x_TD: Tensor, gates_TE: Tensor, weights: ExpertWeights) -> Tensor:
    """``y = sum_e gates[:, e] * expert_e(x)``, [T, O]; widths may differ between experts."""
    if len(weights) == 2:
        return _linear(x_TD, gates_TE, *weights)
    return _bottleneck(x_TD, gates_TE, *weights)


def _linear(
    x_TD: Tensor, gates_TE: Tensor, up: Sequence[Tensor], up_bias: Sequence[Tensor]
) -> Tensor:
    y_TEO = functional.linear(x_TD, torch.cat(list(up))).unflatten(1, (len(up), -1))
    return (y_TEO * gates_TE.unsqueeze(-1)).sum(1) + gates_TE @ torch.stack(list(up_bias))


def _bottleneck(
    x_TD: Tensor,
    gates_TE: Tensor,
    up: Sequence[Tensor],
    up_bias: Sequence[Tensor],
    down: Sequence[Tensor],
    down_bias: Sequence[Tensor],
) -> Tensor:
    # gating the hidden units lets one product add up all experts: V relu(Ux) p = V (p relu(Ux))
    hidden_TH = torch.relu(functional.linear(x_TD, torch.cat(list(up)), torch.cat(list(up_bias))))
    hidden_TH = _gate(hidden_TH, gates_TE, [weight.shape[0] for weight in up])
    bias_TO = gates_TE @ torch.stack(list(down_bias))
    return torch.addmm(bias_TO, hidden_TH, torch.cat(list(down), 1).t())


def _gate(hidden_TH: Tensor, gates_TE: Tensor, widths: list[int]) -> Tensor:
    if len(set(widths)) == 1:
        hidden_TEH = hidden_TH.unflatten(1, (len(widths), widths[0]))
        return (hidden_TEH * gates_TE.unsqueeze(-1)).flatten(1)
    owner_H = torch.repeat_interleave(
        torch.tensor(widths, device=gates_TE.device), output_size=sum(widths)
    )
    return hidden_TH * gates_TE.index_select(1, owner_H)
