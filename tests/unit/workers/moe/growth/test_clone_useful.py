"""The most useful experts are copied: utility by hand, the function kept where it can be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from workers.contract import InputError
from workers.edits import Cause, Grow
from workers.moe.growth import surgery
from workers.moe.layers import LAYERS, MoELayer
from workers.moe.routers import RouterContext
from workers.moe.selectors import SELECTORS
from workers.parsing import checked

CAUSE = Cause(policy="test", trigger="test")


def layer_of(selector: Any, experts: int = 4) -> MoELayer:
    raw = {"kind": "moe", "selector": selector, "expert": {"kind": "bottleneck", "width": 5}}
    _, config = checked(LAYERS, raw)
    made = MoELayer(config, 6, 3, experts, 8, seed=2)
    with torch.no_grad():
        for number, factor in zip(range(experts), (1.0, 9.0, 2.0, 5.0), strict=False):
            made.expert(number).down.weight.mul_(factor)
    return made.eval()


def probe() -> Tensor:
    return torch.randn(50, 6, generator=torch.Generator().manual_seed(1))


def grown(layer: MoELayer, experts: int, scale: float) -> list[int | None]:
    how = {"kind": "clone_useful", "scale": scale}
    edit = Grow(
        id="g",
        stage="s",
        after_interval=0,
        revision=1,
        experts=experts,
        seed=1,
        cause=CAUSE,
        initialiser=how,
    )
    return surgery.apply(layer, None, edit, probe()).parents[""]


@torch.no_grad()
def by_hand(layer: MoELayer) -> list[int]:
    """Experts in falling order of mean gate weight times output norm, dense softmax."""
    rows = torch.stack(list(layer.router.rows.values()))
    biases = torch.stack(list(layer.router.biases.values()))
    gates_TE = torch.softmax(probe() @ rows.t() + biases, 1)
    outputs = [layer.expert(number)(probe()).norm(dim=1) for number in range(layer.live)]
    utility = [float((gates_TE[:, e] * outputs[e]).mean()) for e in range(layer.live)]
    return sorted(range(layer.live), key=lambda e: -utility[e])


def test_parents_are_the_most_useful_experts_and_the_function_stays() -> None:
    layer = layer_of("dense")
    wanted, before = by_hand(layer), layer(probe()).detach()
    assert wanted != sorted(wanted)
    assert grown(layer, 6, 0.0) == wanted[:2]
    torch.testing.assert_close(layer(probe()), before, atol=1e-5, rtol=1e-5)
    assert torch.equal(layer.expert(4).up.weight, layer.expert(wanted[0]).up.weight)


def test_all_experts_twice_begin_anew_with_the_most_useful() -> None:
    layer = layer_of("dense", experts=2)
    wanted = by_hand(layer)
    assert grown(layer, 6, 0.01) == [*wanted, *wanted]
    assert not torch.equal(layer.expert(2).up.weight, layer.expert(wanted[0]).up.weight)


def test_under_top_k_the_copies_take_a_place_and_the_function_changes() -> None:
    layer = layer_of({"kind": "topk", "k": 2})
    before = layer(probe()).detach()
    logits_TE = layer.router(probe(), RouterContext())
    chosen_TE = layer.selector.select(logits_TE, None, False).chosen_TE
    (parent,) = grown(layer, 5, 0.0)
    assert parent is not None
    changed_T = (layer(probe()) - before).abs().max(1).values > 1e-5
    assert changed_T[chosen_TE[:, parent]].any()
    assert not changed_T[~chosen_TE[:, parent]].any(), "tokens of other experts notice nothing"


def test_without_a_probe_it_is_refused() -> None:
    layer = layer_of("dense")
    edit = Grow(
        id="g",
        stage="s",
        after_interval=0,
        revision=1,
        experts=5,
        seed=1,
        cause=CAUSE,
        initialiser="clone_useful",
    )
    with pytest.raises(InputError, match="ranks experts by probe samples"):
        surgery.apply(layer, None, edit, None)


@pytest.mark.parametrize("kind", SELECTORS)
def test_any_selector_tells_how_useful_experts_are(kind: str) -> None:
    layer = layer_of(kind)
    (parent,) = grown(layer, 5, 0.0)
    assert parent in range(4)
