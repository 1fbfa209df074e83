"""``route``: logits -> chosen experts in fixed slots, their weights, and how often each was chosen.

Letters: T tokens, E experts, K slots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ops.registry import check_slots, define, differentiable

NONE = float("-inf")


def _all(ranked_TE: Tensor, level: float, threshold: Tensor | None) -> Tensor:
    """Every expert in a slot, best first."""
    return torch.ones_like(ranked_TE, dtype=torch.bool)


def _top_p(ranked_TE: Tensor, level: float, threshold: Tensor | None) -> Tensor:
    """Fewest experts whose probability exceeds ``level`` (arXiv 2403.07652)."""
    mass_TE = torch.exp(ranked_TE - ranked_TE[:, :1])
    passed_TE = torch.cat([torch.zeros_like(mass_TE[:, :1]), mass_TE.cumsum(1)[:, :-1]], 1)
    return passed_TE <= level * mass_TE.sum(1, keepdim=True)


def _percentile(ranked_TE: Tensor, level: float, threshold: Tensor | None) -> Tensor:
    """Scores at or above this percentile (0..1) of the token's own (DynaMoE, arXiv 2603.01697)."""
    live_T1 = (ranked_TE != NONE).sum(1, keepdim=True).clamp(min=1)
    place_T1 = level * (live_T1 - 1).double()
    low_T1 = place_T1.floor().long()
    high_T1 = torch.minimum(low_T1 + 1, live_T1 - 1)
    below_T1 = ranked_TE.gather(1, live_T1 - 1 - low_T1)
    above_T1 = ranked_TE.gather(1, live_T1 - 1 - high_T1)
    part_T1 = (place_T1 - low_T1).to(ranked_TE.dtype)
    return ranked_TE >= below_T1 + part_T1 * (above_T1 - below_T1)


def _threshold(ranked_TE: Tensor, level: float, threshold: Tensor | None) -> Tensor:
    """Scores at or above a given one, such as a running quantile over batches."""
    assert threshold is not None
    return ranked_TE >= threshold.to(ranked_TE)


Keep = Callable[[Tensor, float, Tensor | None], Tensor]
SELECTORS: dict[str, Keep] = {
    "dense": _all,
    "topk": _all,
    "topp": _top_p,
    "percentile": _percentile,
    "threshold": _threshold,
}
"""Which of the ranked experts to use; ``dense`` alone keeps slot e for expert e."""
_CODES = {name: code for code, name in enumerate(SELECTORS)}
_DENSE, _THRESHOLD = _CODES["dense"], _CODES["threshold"]


def route(
    logits_TE: Tensor,
    *,
    selector: str = "dense",
    k: int = 1,
    temperature: float = 1.0,
    noise_TE: Tensor | None = None,
    allowed_TE: Tensor | None = None,
    level: float = 1.0,
    threshold: Tensor | None = None,
    capacity: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose experts for each token.

    The scores are ``(logits + noise) / temperature``; ``allowed`` (bool) takes experts out of the
    choice. Returns ``selected`` int64 [T, K] (-1 = unused slot), ``weights`` [T, K] (softmax over
    the used slots, 0 in unused ones) and ``counts`` int64 [E]. K is E for ``dense``, ``min(k, E)``
    for the others, which put the best expert first (among equals the lower one, NaN before all)
    and always use it. ``level`` is the probability of ``topp`` or the fraction of ``percentile``;
    ``threshold`` a tensor of one value; ``capacity`` (0 = none) the most slots an expert takes,
    first come first served in token order. Half types are scored in float32.
    """
    if selector not in SELECTORS:
        raise ValueError(f"unknown selector {selector!r}; allowed: {', '.join(sorted(SELECTORS))}")
    if k < 1 or temperature <= 0:
        raise ValueError(f"k must be >= 1 and temperature > 0, got {k} and {temperature}")
    if not 0 <= level <= 1 or capacity < 0:
        raise ValueError(f"level must be 0..1 and capacity >= 0, got {level} and {capacity}")
    if selector == "threshold" and threshold is None:
        raise ValueError("selector 'threshold' needs a threshold, a tensor of one value")
    weights_TK, selected_TK, counts_E = _OP(
        logits_TE,
        noise_TE,
        allowed_TE,
        threshold,
        _CODES[selector],
        k,
        temperature,
        level,
        capacity,
    )
    return selected_TK, weights_TK, counts_E


def _slots(selector: int, k: int, experts: int) -> int:
    return experts if selector == _DENSE else min(k, experts)


def _reference(
    logits_TE: Tensor,
    noise_TE: Tensor | None,
    allowed_TE: Tensor | None,
    threshold: Tensor | None,
    selector: int,
    k: int,
    temperature: float,
    level: float,
    capacity: int,
) -> tuple[Tensor, Tensor, Tensor]:
    tokens, experts = logits_TE.shape
    slots = _slots(selector, k, experts)
    check_slots(tokens, slots)
    logits_TE, result = _exact(logits_TE), logits_TE.dtype
    scores_TE = (logits_TE if noise_TE is None else logits_TE + noise_TE) / temperature
    if allowed_TE is not None:
        scores_TE = scores_TE.masked_fill(~allowed_TE, NONE)
    if selector == _DENSE:
        order_TK = torch.arange(experts, device=logits_TE.device).expand(tokens, experts)
        chosen_TK, used_TK = scores_TE, scores_TE != NONE
    else:
        ranked_TE, order_TE = torch.sort(scores_TE, dim=-1, descending=True, stable=True)
        keep_TE = list(SELECTORS.values())[selector](ranked_TE, level, threshold)
        keep_TE[:, :1] = True
        used_TK = (keep_TE & (ranked_TE != NONE))[:, :slots]
        chosen_TK, order_TK = ranked_TE[:, :slots], order_TE[:, :slots]
    slot_TK = torch.where(used_TK, order_TK, experts)
    if capacity > 0:
        used_TK = used_TK & (_arrival(slot_TK, experts) < capacity)
        slot_TK = torch.where(used_TK, order_TK, experts)
    chosen_TK = chosen_TK.masked_fill(~used_TK, NONE)
    weights_TK = torch.where(used_TK, torch.softmax(chosen_TK, -1), 0.0).to(result)
    counts = torch.zeros(experts + 1, dtype=torch.int64, device=logits_TE.device)
    counts.scatter_add_(0, slot_TK.reshape(-1), torch.ones_like(slot_TK).reshape(-1))
    return weights_TK, torch.where(used_TK, order_TK, -1), counts[:experts].clone()


def _exact(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _arrival(slot_TK: Tensor, experts: int) -> Tensor:
    """How many slots of the same expert come before each slot, in token order."""
    flat_S = slot_TK.reshape(-1)
    order_S = torch.argsort(flat_S, stable=True)
    sizes = torch.zeros(experts + 1, dtype=torch.int64, device=flat_S.device)
    sizes.scatter_add_(0, flat_S, torch.ones_like(flat_S))
    starts = sizes.cumsum(0) - sizes
    place_S = torch.empty_like(order_S)
    place_S[order_S] = torch.arange(len(order_S), device=flat_S.device)
    return (place_S - starts[flat_S]).view(slot_TK.shape)


def _fake(
    logits_TE: Tensor, _noise: Any, _allowed: Any, _threshold: Any, selector: int, k: int, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    tokens, experts = logits_TE.shape
    slots = _slots(selector, k, experts)
    return (
        logits_TE.new_empty((tokens, slots)),
        logits_TE.new_empty((tokens, slots), dtype=torch.int64),
        logits_TE.new_empty((experts,), dtype=torch.int64),
    )


def _backward_reference(
    grad_TK: Tensor, selected_TK: Tensor, weights_TK: Tensor, experts: int, temperature: float
) -> Tensor:
    grad_TK, weights_TK, result = _exact(grad_TK), _exact(weights_TK), weights_TK.dtype
    used_TK = selected_TK >= 0
    inner_T1 = torch.where(used_TK, weights_TK * grad_TK, 0.0).sum(-1, keepdim=True)
    grad_TK = torch.where(used_TK, weights_TK * (grad_TK - inner_T1) / temperature, 0.0)
    grad_TE = grad_TK.new_zeros((grad_TK.shape[0], experts))
    return grad_TE.scatter_add(1, selected_TK.clamp(min=0), grad_TK).to(result)


def _backward_fake(
    grad_TK: Tensor, selected_TK: Tensor, weights_TK: Tensor, experts: int, temperature: float
) -> Tensor:
    return weights_TK.new_empty((weights_TK.shape[0], experts))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.temperature, ctx.experts = inputs[6], inputs[0].shape[1]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1], output[0])


def _backward(ctx: Any, grad_TK: Tensor | None, _selected: Any, _counts: Any) -> tuple[Any, ...]:
    if grad_TK is None:
        return (None,) * 9
    selected_TK, weights_TK = ctx.saved_tensors
    grad_TE = _BACKWARD(grad_TK, selected_TK, weights_TK, ctx.experts, ctx.temperature)
    return grad_TE, grad_TE if ctx.needs_input_grad[1] else None, *[None] * 7


_OP = define(
    "route",
    "(Tensor logits, Tensor? noise, Tensor? allowed, Tensor? threshold, int selector, int k,"
    " float temperature, float level, int capacity)"
    " -> (Tensor weights, Tensor selected, Tensor counts)",
    _reference,
    _fake,
)
_BACKWARD = define(
    "route_backward",
    "(Tensor grad, Tensor selected, Tensor weights, int experts, float temperature) -> Tensor",
    _backward_reference,
    _backward_fake,
)
differentiable("route", _backward, _setup_context)
