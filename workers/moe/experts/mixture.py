"""Experts of one, two or three linear maps, packed: as few matrix products as can be.

Letters: T tokens, E experts, D inputs, H hidden units of all experts together, O outputs, S rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

import ops
from ops.expert_mlp import ACTIVATIONS

ExpertWeights = tuple[list[Tensor], ...]
"""Lists over experts: up, up_bias, down, down_bias; linear experts have only the first two."""


class Packed:
    """Experts V act(U x + b) + c, or U x + b, as one kernel (``experts.base.Kernel``)."""

    def __init__(self, tensors: Sequence[tuple[Tensor, ...]], activation: str = "relu") -> None:
        """``tensors``: of each expert, in the order of ``ExpertWeights``; widths may differ."""
        self._weights: ExpertWeights = tuple(list(role) for role in zip(*tensors, strict=True))
        self._activation = activation

    def mixture(self, x_TD: Tensor, weights_TE: Tensor, frozen: bool = False) -> Tensor:
        """See ``Kernel.mixture``."""
        weights = self._weights
        if frozen:
            weights = tuple([tensor.detach() for tensor in role] for role in weights)
        return dense_mixture(x_TD, weights_TE, weights, self._activation)

    def on_rows(
        self, rows_SD: Tensor, offsets: Tensor, trainable_S: Tensor | None = None
    ) -> Tensor:
        """See ``Kernel.on_rows``."""
        return ops.expert_mlp(
            rows_SD, offsets, *self._weights, activation=self._activation, learning_S=trainable_S
        )


class PackedGated:
    """Experts V (act(G x) * (U x)), as one kernel (``experts.base.Kernel``)."""

    def __init__(self, gate_up: list[Tensor], down: list[Tensor], activation: str) -> None:
        """``gate_up``: of each expert, G above U; ``down``: V. Widths may differ."""
        self._gate_up, self._down, self._activation = gate_up, down, activation

    def mixture(self, x_TD: Tensor, weights_TE: Tensor, frozen: bool = False) -> Tensor:
        """See ``Kernel.mixture``."""
        gate_up, down = self._gate_up, self._down
        if frozen:
            gate_up, down = [w.detach() for w in gate_up], [w.detach() for w in down]
        halves = [w.chunk(2) for w in gate_up]
        gate_TH = functional.linear(x_TD, torch.cat([gate for gate, _ in halves]))
        value_TH = functional.linear(x_TD, torch.cat([value for _, value in halves]))
        hidden_TH = ACTIVATIONS[self._activation][0](gate_TH) * value_TH
        hidden_TH = _gate(hidden_TH, weights_TE, [w.shape[1] for w in down])
        return hidden_TH @ torch.cat(down, 1).t()

    def on_rows(
        self, rows_SD: Tensor, offsets: Tensor, trainable_S: Tensor | None = None
    ) -> Tensor:
        """See ``Kernel.on_rows``."""
        return ops.expert_mlp(
            rows_SD,
            offsets,
            self._gate_up,
            down=self._down,
            activation=self._activation,
            gated=True,
            learning_S=trainable_S,
        )


def dense_mixture(
    x_TD: Tensor, gates_TE: Tensor, weights: ExpertWeights, activation: str = "relu"
) -> Tensor:
    """``y = sum_e gates[:, e] * expert_e(x)``, [T, O]; widths may differ between experts."""
    if len(weights) == 2:
        return _linear(x_TD, gates_TE, *weights)
    up, up_bias, down, down_bias = weights
    return _bottleneck(x_TD, gates_TE, up, up_bias, down, down_bias, activation)


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
    activation: str,
) -> Tensor:
    # gating the hidden units lets one product add up all experts: V act(Ux) p = V (p act(Ux))
    hidden_TH = functional.linear(x_TD, torch.cat(list(up)), torch.cat(list(up_bias)))
    hidden_TH = ACTIVATIONS[activation][0](hidden_TH)
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
