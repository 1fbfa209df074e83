"""Dispatch: runs the chosen experts, dense or packed, and masks their gradients.

The one place that does either; selectors choose, ``experts.base.Kernel`` computes.
Letters: T tokens, E experts, K slots, D inputs, O outputs, S rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import ops
from workers.moe.experts.base import Kernel
from workers.moe.selection import Selection, Slots
from workers.moe.selectors.base import largest


@dataclass(frozen=True, slots=True)
class Limits:
    """Which tokens experts learn from; outputs do not depend on it."""

    max_k: int | None = None
    """Only a token's k experts with the largest weights, fewer than all, get a gradient, in
    parameters and input (``E <- m E + stopgrad((1 - m) E)``, DynamicMoE, arXiv 2511.18987).
    None = all."""
    trainable_TE: Tensor | None = None
    """May the expert's parameters learn from the token (DES-MoE, arXiv 2509.16882, equation 8)?
    Gradients of router and input are unchanged. None = all may."""


FREE = Limits()


def dispatch(kernel: Kernel, x_TD: Tensor, selection: Selection, limits: Limits) -> Tensor:
    """``y_t = sum_e weights[t, e] expert_e(x_t)`` over the chosen experts, [T, O].

    A token that chose none gets 0.
    """
    run = _dense if selection.dense else _packed
    return run(kernel, x_TD, selection, limits.max_k, limits.trainable_TE)


def reached(selection: Selection, limits: Limits) -> Tensor | None:
    """Bool [E]: does the expert learn from any token? None where all surely do."""
    max_k, trainable_TE = limits.max_k, limits.trainable_TE
    if max_k is None and trainable_TE is None:
        if selection.complete:
            return None if selection.tokens else selection.chosen_TE.any(0)
        if selection.slots is not None:
            return selection.slots.counts_E > 0
    learns_TE = selection.chosen_TE
    if max_k is not None:
        learns_TE = learns_TE & _first(selection, max_k)
    if trainable_TE is not None:
        learns_TE = learns_TE & trainable_TE
    return learns_TE.any(0)


def _first(selection: Selection, k: int) -> Tensor:
    """Bool [T, E]: is the expert among the token's k with the largest weights?"""
    if selection.slots is not None:
        return selection.slots.chosen(selection.experts, k)
    return largest(selection.weights_TE, k)


def _dense(
    kernel: Kernel,
    x_TD: Tensor,
    selection: Selection,
    max_k: int | None,
    trainable_TE: Tensor | None,
) -> Tensor:
    """Every expert on every token. What must not learn is computed apart, without gradient."""
    learners_TE, rest = selection.weights_TE.to(x_TD.dtype), []
    if max_k is not None:
        near_TE = _first(selection, max_k).to(learners_TE.dtype)
        rest.append(kernel.mixture(x_TD.detach(), learners_TE * (1 - near_TE), frozen=True))
        learners_TE = learners_TE * near_TE
    if trainable_TE is not None:
        free_TE = trainable_TE.to(learners_TE.dtype)
        rest.append(kernel.mixture(x_TD, learners_TE * (1 - free_TE), frozen=True))
        learners_TE = learners_TE * free_TE
    return sum(rest, kernel.mixture(x_TD, learners_TE))


def _packed(
    kernel: Kernel,
    x_TD: Tensor,
    selection: Selection,
    max_k: int | None,
    trainable_TE: Tensor | None,
) -> Tensor:
    """Each expert on the rows of the tokens that chose it."""
    slots = selection.as_slots()
    rows = None
    if slots.used is not None:  # at least one, from which unused slots can be gathered
        rows = min(max(1, slots.used), slots.selected_TK.numel())
    rows_SD, position_TK, offsets = ops.permute(x_TD, slots.selected_TK, selection.experts, rows)
    trainable_S = _trainable_rows(trainable_TE, slots, position_TK, len(rows_SD))
    rows_SO = kernel.on_rows(rows_SD, offsets, trainable_S)
    if max_k is not None and max_k < position_TK.shape[1]:
        rows_SO = _detach_late_slots(rows_SO, position_TK, max_k)
    return ops.combine(rows_SO, position_TK, slots.weights_TK.to(rows_SO.dtype))


def _detach_late_slots(rows_SO: Tensor, position_TK: Tensor, kept: int) -> Tensor:
    """Slots are best first: rows of slots after the first ``kept`` lose their gradient."""
    late_S = position_TK[:, kept:].reshape(-1)
    detached_S = torch.zeros(rows_SO.shape[0] + 1, dtype=torch.bool, device=rows_SO.device)
    detached_S[late_S.where(late_S >= 0, rows_SO.shape[0])] = True
    return torch.where(detached_S[:-1].unsqueeze(1), rows_SO.detach(), rows_SO)


def _trainable_rows(
    trainable_TE: Tensor | None, slots: Slots, position_TK: Tensor, rows: int
) -> Tensor | None:
    """Bool [S]: may the row's expert learn from it? Rows of unused slots are True."""
    if trainable_TE is None:
        return None
    trainable_TK = trainable_TE.gather(1, slots.selected_TK.clamp(min=0))
    place_TK = position_TK.where(position_TK >= 0, rows)  # unused slots share a row past the end
    trainable_S = torch.ones(rows + 1, dtype=torch.bool, device=position_TK.device)
    trainable_S[place_TK.reshape(-1)] = trainable_TK.reshape(-1)
    return trainable_S[:-1].contiguous()
