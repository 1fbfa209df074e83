"""Fits of routers without gradients: what each router is shown of the probe samples.

Letters: B samples, T tokens, E experts, D inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from workers.contract import InputError, derive_seed
from workers.edits.base import EditProbe, Forward
from workers.moe.growth.surgery import answer
from workers.moe.routed import chosen_layers, observing
from workers.moe.routers.base import Router

if TYPE_CHECKING:
    from workers.edits.fit_router import FitRouter


@dataclass(frozen=True, slots=True)
class Shown:
    """One layer, and what the probe's samples were to it."""

    module: nn.Module
    layer: Any
    probe: EditProbe
    run: Forward
    inputs: tuple[Tensor, ...]
    """What the router of each round reads [T, D]."""

    def of_tokens(self, value_B: Tensor) -> Tensor:
        """The samples' values [B, ...] for each of their tokens [T, ...]."""
        return value_B.repeat_interleave(len(self.inputs[0]) // len(value_B), 0)


def _labels(shown: Shown) -> list[Tensor]:
    y = shown.probe.y
    if y is None:
        raise InputError("fit of routers: no labels of probe samples are known here")
    if y.dim() > 1:
        what = "numbers" if y.is_floating_point() else "labels, one for each token"
        raise InputError(f"fit of routers: a sample has {y.shape[1]} {what}; fit to domains")
    return [shown.of_tokens(y)] * len(shown.inputs)


def _domains(shown: Shown) -> list[Tensor]:
    domain = shown.probe.domain
    if domain is None:
        raise InputError("fit of routers: no domains of probe samples are known here")
    return [shown.of_tokens(domain.to(shown.inputs[0].device))] * len(shown.inputs)


def _losses(shown: Shown) -> list[Tensor]:
    """Loss of each token's sample if the layer had that expert alone, [T, E]."""
    layer, probe = shown.layer, shown.probe
    if probe.losses is None:
        raise InputError("fit of routers: no losses of probe samples are known here")
    found = []
    for place in range(layer.live):
        with only(layer, place):
            found.append(probe.losses(answer(shown.module, shown.run, probe)))
    return [shown.of_tokens(torch.stack(found, 1))] * len(shown.inputs)


@torch.no_grad()
def _errors(shown: Shown) -> list[Tensor]:
    """||E_e(x) - k/E sum_f E_f(x)||^2 for each token [T, E]: of a layer whose experts were cut from
    a dense one, the sum is what that one answered (arXiv 2408.11855)."""
    layer = shown.layer
    share = min(layer.selector.active(layer.live), layer.live) / layer.live
    found = []
    for x_TD in shown.inputs:
        answers_ETO = torch.stack([expert(x_TD) for expert in layer.experts.values()])
        wanted_TO = share * answers_ETO.sum(0)
        found.append((answers_ETO - wanted_TO).square().sum(-1).T)
    return found


TARGETS: dict[str, Callable[[Shown], list[Tensor]]] = {
    "labels": _labels,
    "domains": _domains,
    "losses": _losses,
    "errors": _errors,
}
"""What routers may be fitted to -> the targets of each round's router."""


def plan_fit(
    module: nn.Module, edit: FitRouter, probe: EditProbe | None, run: Forward
) -> Callable[[], None]:
    """Check that the routers can be fitted to the probe; the result fits them."""
    parts = chosen_layers(module, edit.layers, "fit of routers")
    for name, layer in parts.items():
        _check(name, layer.router, edit.targets)
    if probe is None:
        raise InputError(f"fit of routers: no {edit.targets} of probe samples are known here")
    with observing(module) as seen:
        answer(module, run, probe)
    read = {name: tuple(routed.x for routed in seen[name]) for name in parts}
    targets = {
        name: TARGETS[edit.targets](Shown(module, parts[name], probe, run, read[name]))
        for name in parts
    }

    def fit() -> None:
        for name in parts:
            for number, router in enumerate(parts[name].routers):
                seed = derive_seed(edit.seed, name, "fit", number)
                router.fit(read[name][number], targets[name][number], seed)

    return fit


def _check(name: str, router: Router, targets: str) -> None:
    kind = type(router).__name__
    if type(router).fit is Router.fit:
        raise InputError(
            f"fit of routers: the router {kind} of layer {name!r} is trained by gradients; give a "
            "router with a fit of its own"
        )
    if targets not in router.fit_targets:
        raise InputError(
            f"fit of routers: the router {kind} of layer {name!r} cannot be fitted to {targets}, "
            f"only to {' or '.join(router.fit_targets)}"
        )


@contextmanager
def only(layer: nn.Module, place: int) -> Iterator[None]:
    """Inside, tokens may choose one of the layer's experts alone."""

    def allow(part: Any, inputs: tuple[Any, ...], more: dict[str, Any]) -> Any:
        allowed = torch.zeros(
            (*inputs[0].shape[:-1], part.live), dtype=torch.bool, device=inputs[0].device
        )
        allowed[..., place] = True
        return inputs, more | {"allowed": allowed}

    handle = layer.register_forward_pre_hook(allow, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
