"""What single experts answered to the samples of a probe, and what their layers made of it.

Letters: T tokens, N samples, E experts, S tokens that chose one expert, D features, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.diagnostics.base import Probe
from workers.moe.routed import Routed, observing, routed_layers

Moves = Mapping[str, tuple[Tensor, Tensor]]
"""Module -> what it read and what it gave in the last forward."""


@torch.no_grad()
def passes(probe: Probe) -> dict[str, list[Routed]]:
    """Routed layer -> each pass of the probe's inputs through it."""
    if not routed_layers(probe.model):
        return {}
    with observing(probe.model) as seen:
        probe.model(probe.inputs)
    return {name: kept for name, kept in seen.items() if kept}


@torch.no_grad()
def answers(layer: Any, routed: Routed) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(place of an expert, tokens that chose it [S], its outputs for them [S, O] in float64)."""
    for place, expert in enumerate(layer.experts.values()):
        tokens_S = routed.chosen[:, place].nonzero()[:, 0]
        if len(tokens_S):
            yield place, tokens_S, expert(routed.x[tokens_S]).double()


def peaks(probe: Probe) -> dict[str, dict[int, float]]:
    """Layer -> largest absolute output of each expert by id; of those that no token chose none."""
    found: dict[str, dict[int, float]] = {}
    for name, kept in passes(probe).items():
        layer: Any = routed_layers(probe.model)[name]
        largest = found.setdefault(name, {})
        for routed in kept:
            for place, _, outputs_SO in answers(layer, routed):
                number, peak = layer.ids[place], float(outputs_SO.abs().max())
                largest[number] = max(peak, largest.get(number, 0.0))
    return found


def contributions(probe: Probe) -> dict[str, dict[str, list[float]]]:
    """Layer -> domain -> what ``OutputAware`` says of each expert by id; empty where the probe does
    not know its inputs' domains."""
    if probe.inputs_domain is None:
        return {}
    with _moves(probe.model) as moves:
        seen = passes(probe)
    domain_N = probe.inputs_domain
    told: dict[str, dict[str, list[float]]] = {}
    for name, kept in seen.items():
        layer: Any = routed_layers(probe.model)[name]
        score_TE = _scores(layer, kept, _moved(probe.model, name, moves, len(kept[0].x)))
        domain_T = domain_N.repeat_interleave(len(score_TE) // len(domain_N))
        told[name] = {
            domain: _by_id(layer, score_TE[domain_T == place].sum(0))
            for place, domain in enumerate(probe.domains)
            if (domain_T == place).any()
        }
    return told


def _by_id(layer: Any, values_E: Tensor) -> list[float]:
    wide = [0.0] * layer.born
    for number, value in zip(layer.ids, values_E.tolist(), strict=True):
        wide[number] = value
    return wide


def _scores(layer: Any, kept: list[Routed], moved_T: Tensor) -> Tensor:
    """Scores of each token [T, E], rounds of a layer added up."""
    score_TE = torch.zeros_like(kept[0].weights, dtype=torch.float64)
    for routed in kept:
        for place, tokens_S, outputs_SO in answers(layer, routed):
            size_S = routed.weights[tokens_S, place].double() * outputs_SO.norm(dim=-1)
            score_TE[tokens_S, place] += size_S * moved_T[tokens_S]
    return score_TE


def _moved(model: nn.Module, name: str, moves: Moves, tokens: int) -> Tensor:
    """``max(0, 1 - cos)`` of the state before and after the layer's block, float64 [T]."""
    for place in (*_around(model, name), name):
        before, after = moves.get(place, (None, None))
        if before is None or after is None or before.shape != after.shape:
            continue
        before_TD = before.reshape(-1, before.shape[-1]).double()
        after_TD = after.reshape(-1, after.shape[-1]).double()
        if len(before_TD) == tokens:
            alike_T = functional.cosine_similarity(before_TD, after_TD, dim=-1)
            return (1.0 - alike_T).clamp_min(0.0)
    device = next(model.parameters()).device
    return torch.ones(tokens, dtype=torch.float64, device=device)


def _around(model: nn.Module, name: str) -> list[str]:
    """Modules that hold this routed layer and no other, innermost first."""
    others = [other for other in routed_layers(model) if other != name]
    parts = name.split(".")
    outer = [".".join(parts[:length]) for length in range(len(parts) - 1, 0, -1)]
    return [place for place in outer if not any(o.startswith(f"{place}.") for o in others)]


@contextmanager
def _moves(model: nn.Module) -> Iterator[Moves]:
    """What routed layers and the modules around them read and give inside the block."""
    moves: dict[str, tuple[Tensor, Tensor]] = {}
    modules = dict(model.named_modules())

    def keep(place: str, part: nn.Module, inputs: Any, output: Any) -> None:
        given = output[0] if isinstance(output, tuple) and output else output
        if inputs and isinstance(inputs[0], Tensor) and isinstance(given, Tensor):
            moves[place] = inputs[0].detach(), given.detach()

    places = {place for name in routed_layers(model) for place in (name, *_around(model, name))}
    handles = [modules[p].register_forward_hook(partial(keep, p)) for p in sorted(places)]
    try:
        yield moves
    finally:
        for handle in handles:
            handle.remove()
