"""``route``: logits -> chosen experts in fixed slots, their weights, and how often each was chosen.

Letters: T tokens, E experts, K slots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ops.registry import define, differentiable


def _dense(scores_TE: Tensor, k: int) -> Tensor:
    """Every expert, slot e holding expert e."""
    tokens, experts = scores_TE.shape
    return torch.arange(experts, device=scores_TE.device).expand(tokens, experts)


def _topk(scores_TE: Tensor, k: int) -> Tensor:
    """The k largest scores, best first; among equals the lower expert, NaN before all."""
    order_TE = torch.sort(scores_TE, dim=-1, descending=True, stable=True).indices
    return order_TE[:, : min(k, scores_TE.shape[1])]


SELECTORS: dict[str, Callable[[Tensor, int], Tensor]] = {"dense": _dense, "topk": _topk}


def route(
    logits_TE: Tensor,
    *,
    selector: str = "dense",
    k: int = 1,
    temperature: float = 1.0,
    noise_TE: Tensor | None = None,
    allowed_TE: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose experts for each token.

    The scores are ``(logits + noise) / temperature``; ``allowed`` (bool) takes experts out of the
    choice. Returns ``selected`` int64 [T, K] (-1 = unused slot), ``weights`` [T, K] (softmax over
    the used slots, 0 in unused ones) and ``counts`` int64 [E]. K is E for ``dense`` and
    ``min(k, E)`` for ``topk``.
    """
    if selector not in SELECTORS:
        raise ValueError(f"unknown selector {selector!r}; allowed: {', '.join(sorted(SELECTORS))}")
    if k < 1 or temperature <= 0:
        raise ValueError(f"k must be >= 1 and temperature > 0, got {k} and {temperature}")
    weights_TK, selected_TK, counts_E = _OP(
        logits_TE, noise_TE, allowed_TE, selector, k, temperature
    )
    return selected_TK, weights_TK, counts_E


def _reference(
    logits_TE: Tensor,
    noise_TE: Tensor | None,
    allowed_TE: Tensor | None,
    selector: str,
    k: int,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    experts = logits_TE.shape[1]
    scores_TE = (logits_TE if noise_TE is None else logits_TE + noise_TE) / temperature
    if allowed_TE is not None:
        scores_TE = scores_TE.masked_fill(~allowed_TE, float("-inf"))
    order_TK = SELECTORS[selector](scores_TE, k)
    chosen_TK = scores_TE.gather(1, order_TK)
    used_TK = chosen_TK != float("-inf")
    weights_TK = torch.where(used_TK, torch.softmax(chosen_TK, -1), 0.0)
    selected_TK = torch.where(used_TK, order_TK, -1)
    counts = torch.zeros(experts + 1, dtype=torch.int64, device=logits_TE.device)
    slots = torch.where(used_TK, order_TK, experts).reshape(-1)
    counts.scatter_add_(0, slots, torch.ones_like(slots))
    return weights_TK, selected_TK, counts[:experts].clone()


def _fake(
    logits_TE: Tensor,
    noise_TE: Tensor | None,
    allowed_TE: Tensor | None,
    selector: str,
    k: int,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    tokens, experts = logits_TE.shape
    slots = experts if selector == "dense" else min(k, experts)
    return (
        logits_TE.new_empty((tokens, slots)),
        logits_TE.new_empty((tokens, slots), dtype=torch.int64),
        logits_TE.new_empty((experts,), dtype=torch.int64),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.temperature, ctx.experts = inputs[5], inputs[0].shape[1]
    ctx.save_for_backward(output[1], output[0])


def _backward(ctx: Any, grad_TK: Tensor, _selected: Any, _counts: Any) -> tuple[Any, ...]:
    selected_TK, weights_TK = ctx.saved_tensors
    inner_T1 = (weights_TK * grad_TK).sum(-1, keepdim=True)
    grad_TK = weights_TK * (grad_TK - inner_T1) / ctx.temperature
    grad_TK = torch.where(selected_TK >= 0, grad_TK, 0.0)
    grad_TE = grad_TK.new_zeros((grad_TK.shape[0], ctx.experts))
    grad_TE = grad_TE.scatter_add(1, selected_TK.clamp(min=0), grad_TK)
    return grad_TE, grad_TE if ctx.needs_input_grad[1] else None, None, None, None, None


_OP = define(
    "route",
    "(Tensor logits, Tensor? noise, Tensor? allowed, str selector, int k, float temperature)"
    " -> (Tensor weights, Tensor selected, Tensor counts)",
    _reference,
    _fake,
)
differentiable("route", _backward, _setup_context)
