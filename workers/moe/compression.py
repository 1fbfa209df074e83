"""Experts of lesser rank stood in for by vectors: what a token's other choices do to its input.

Letters: T tokens, E experts, K slots, D inputs.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from workers.moe.selection import Selection, Slots

SCALE = "scale"
"""Name of an expert's vector among its parameters."""


def give_scale(expert: nn.Module, inputs: int) -> None:
    """The vector [D] that stands in for the expert, 1 at first; learns if the expert does."""
    if SCALE in expert._parameters:
        return
    like = next(expert.parameters())
    learns = any(parameter.requires_grad for parameter in expert.parameters())
    ones = torch.ones(inputs, dtype=like.dtype, device=like.device)
    expert.register_parameter(SCALE, nn.Parameter(ones, requires_grad=learns))


def take_scale(expert: nn.Module) -> None:
    """The expert without its vector."""
    expert._parameters.pop(SCALE, None)


def compressed(
    experts: Iterable[nn.Module],
    x_TD: Tensor,
    selection: Selection,
    main: int,
    trainable_TE: Tensor | None = None,
) -> tuple[Tensor, Selection]:
    """The input as a token's auxiliary experts scale it, and the choice of its main ones.

    ``theta = sum_{i>main} a'_i theta_i``, a' the weights after the ``main`` largest, made to sum
    to 1; the main experts then get ``x * theta`` and keep their weights (Compressed Experts, arXiv
    2503.00634). A token without auxiliary experts keeps its input. ``trainable`` (bool [T, E])
    leaves tokens out of the gradients of the vectors.
    """
    slots = selection.as_slots()
    if slots.selected_TK.shape[1] <= main:
        return x_TD, selection
    rest_TK, weights_TK = slots.selected_TK[:, main:], slots.weights_TK[:, main:].float()
    weights_TK = weights_TK.where(rest_TK >= 0, 0.0)
    sum_T1 = weights_TK.sum(1, keepdim=True)
    shares_TK = weights_TK / sum_T1.where(sum_T1 > 0, 1.0)
    shares_TE = shares_TK.new_zeros((len(x_TD), selection.experts))
    shares_TE = shares_TE.scatter_add(1, rest_TK.clamp(min=0), shares_TK)
    scales_ED = torch.stack([expert.get_parameter(SCALE) for expert in experts]).float()
    free_TE = 1.0 if trainable_TE is None else trainable_TE.float()
    theta_TD = (shares_TE * free_TE) @ scales_ED
    if trainable_TE is not None:
        theta_TD = theta_TD + (shares_TE * (1.0 - free_TE)) @ scales_ED.detach()
    theta_TD = theta_TD.where(sum_T1 > 0, 1.0)
    return x_TD * theta_TD.to(x_TD.dtype), Selection(slots=_first(slots, main, selection.experts))


def _first(slots: Slots, main: int, experts: int) -> Slots:
    """The first slots of each token alone."""
    selected_TK = slots.selected_TK[:, :main].contiguous()
    used = selected_TK.reshape(-1).where(selected_TK.reshape(-1) >= 0, experts)
    counts_E = torch.zeros(experts + 1, dtype=torch.int64, device=used.device)
    counts_E = counts_E.index_add(0, used, torch.ones_like(used))[:experts]
    return Slots(selected_TK, slots.weights_TK[:, :main].contiguous(), counts_E)
