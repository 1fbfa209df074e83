"""Noisy gating: learnt noise in training only, the smooth load against a simulation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from workers.moe.experts import Bottleneck
from workers.moe.growth.growable import Growth
from workers.moe.growth.initialisers import INITIALISERS
from workers.moe.layers import MoELayer
from workers.moe.losses.load import load
from workers.moe.routed import Routed, StepContext, observing
from workers.moe.routers import NoisyRouter, RouterContext
from workers.moe.selectors import TopK
from workers.moe.stepping import stepping, take_losses


def _router(experts: int = 4, inputs: int = 5) -> NoisyRouter:
    torch.manual_seed(2)
    router = NoisyRouter(NoisyRouter.Config(), inputs)
    for expert in range(experts):
        router.add(expert)
        torch.nn.init.normal_(router.noise_rows[str(expert)])
    return router


def _x(tokens: int) -> Tensor:
    return torch.randn(tokens, 5, generator=torch.Generator().manual_seed(7))


def test_noise_has_the_learnt_size_in_training_only() -> None:
    router, x_TD = _router(), _x(1).repeat(20_000, 1)
    still_TE = router.eval()(x_TD, RouterContext())
    torch.testing.assert_close(still_TE, router.still(x_TD))
    rows = torch.stack(list(router.noise_rows.values()))
    wanted_E = torch.log1p(torch.exp(rows @ x_TD[0]))
    noise_TE = router.train()(x_TD, RouterContext()) - still_TE
    torch.testing.assert_close(noise_TE.std(0), wanted_E, rtol=0.03, atol=0.0)
    assert bool((noise_TE.mean(0).abs() < 4 * wanted_E / math.sqrt(20_000)).all())
    with torch.no_grad():
        assert torch.equal(router(x_TD, RouterContext()), still_TE)


def test_load_is_the_chance_of_being_chosen_if_its_noise_alone_is_drawn_again() -> None:
    router, x_TD = _router(), _x(3)
    still_TE, spread_TE = router.still(x_TD).detach(), router.spread(x_TD).detach()
    torch.manual_seed(5)
    noisy_TE = still_TE + torch.randn(3, 4) * spread_TE
    chosen_TE = torch.zeros(3, 4, dtype=torch.bool).scatter(1, noisy_TE.topk(2).indices, True)
    routed = Routed(
        x_TD, noisy_TE, torch.softmax(noisy_TE, 1), chosen_TE, noisy_TE, 0.0, (), None, router
    )
    draws, wanted_E = 200_000, torch.zeros(4)
    for expert in range(4):
        again_TE = noisy_TE.repeat(draws, 1, 1)
        redrawn = torch.randn(draws, 3) * spread_TE[:, expert]
        again_TE[..., expert] = still_TE[:, expert] + redrawn
        rank = (again_TE > again_TE[..., expert : expert + 1]).sum(-1)
        wanted_E[expert] = (rank < 2).double().mean(0).sum()
    torch.testing.assert_close(load(routed).detach(), wanted_E, rtol=0.0, atol=0.01)


def test_load_where_all_experts_are_chosen_or_not_allowed() -> None:
    router, x_TD = _router(), _x(6)
    logits_TE = router.still(x_TD)
    everything = torch.ones(6, 4, dtype=torch.bool)
    p_TE = torch.softmax(logits_TE, 1)
    routed = Routed(x_TD, logits_TE, p_TE, everything, p_TE, 0.0, (), None, router)
    assert load(routed).tolist() == [6.0] * 4
    allowed_TE = everything.clone()
    allowed_TE[:, 3] = False
    p_TE = torch.softmax(logits_TE.masked_fill(~allowed_TE, float("-inf")), 1)
    routed = Routed(x_TD, logits_TE, p_TE, allowed_TE, p_TE, 0.0, (), None, router)
    assert load(routed).tolist() == [6.0, 6.0, 6.0, 0.0]


def _layer() -> MoELayer:
    config = MoELayer.Config(
        router=NoisyRouter.Config(),
        selector=TopK.Config(),
        expert=Bottleneck.Config(width=4),
    )
    return MoELayer(config, 5, 20, 4, 8, seed=1)


def test_the_layer_adds_the_loss_and_all_parameters_learn() -> None:
    layer = _layer().train()
    with stepping(layer, StepContext()), observing(layer) as seen:
        y_TO = layer(_x(64))
        losses = take_losses({"": layer})
    assert list(losses) == ["loss/load/"]
    load_E = load(seen[""][0])
    wanted = 0.1 * load_E.var(correction=0) / load_E.mean() ** 2
    torch.testing.assert_close(losses["loss/load/"].detach(), wanted.detach())
    (y_TO.square().mean() + losses["loss/load/"]).backward()
    rows = [p.grad for p in layer.router.noise_rows.values()]
    assert all(gradient is not None and bool(gradient.any()) for gradient in rows)


def test_growth_keeps_old_rows_and_copies_those_of_a_parent() -> None:
    layer = _layer()
    for row in layer.router.noise_rows.values():
        torch.nn.init.normal_(row)
    before = {name: p.clone() for name, p in layer.router.noise_rows.items()}
    made = INITIALISERS["clone_split"](INITIALISERS["clone_split"].Config())
    layer.grow(Growth(experts=6, initialiser=made, seed=5, stage=None))
    rows = layer.router.noise_rows
    assert all(torch.equal(rows[name], value) for name, value in before.items())
    for number, birth in layer.births.items():
        if birth.parent is not None:
            assert torch.equal(rows[str(number)], rows[str(birth.parent)])
    assert len(rows) == 6
    restored = _layer()
    restored.ensure_arch(layer.arch())
    restored.load_state_dict(layer.state_dict())
    layer.router.remove(1)
    assert list(layer.router.noise_rows) == ["0", "2", "3", "4", "5"]


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="load must not be negative"):
        NoisyRouter.Config(load=-0.1)
