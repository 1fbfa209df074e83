"""Learned top-any: prefixes of the ranking, drawn in training, settled outside it, taught by its
losses and by what cut-off experts would have given."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from workers.moe.experts import LinearExpert
from workers.moe.growth.growable import Growth
from workers.moe.growth.initialisers import INITIALISERS
from workers.moe.layers import MoELayer
from workers.moe.routed import observing
from workers.moe.selectors import SELECTORS
from workers.moe.stepping import take_losses

TOPANY = SELECTORS["learned_topany"]


def _selector(**settings):
    torch.manual_seed(3)
    selector = TOPANY(TOPANY.Config(**{"k": 3} | settings))
    selector.for_inputs(6)
    torch.nn.init.normal_(selector.lengths.weight)
    return selector


def _expected(selector, x_TD, logits_TE):
    """(weights [T, E], prefix length [T]) by the formula, without noise."""
    best = logits_TE.topk(3, dim=1)
    w_TK = torch.softmax(best.values, 1)
    seen_TK = x_TD @ selector.features.weight.t()
    m_TK = torch.cat([seen_TK, w_TK], 1) @ selector.lengths.weight.t() + selector.lengths.bias
    length_T = m_TK.argmax(1) + 1
    weights_TE = torch.zeros_like(logits_TE)
    for t, length in enumerate(length_T.tolist()):
        kept_K = w_TK[t, :length]
        weights_TE[t, best.indices[t, :length]] = kept_K / kept_K.sum()
    return weights_TE, length_T, m_TK, w_TK


def test_outside_training_the_net_settles_a_prefix() -> None:
    selector, x_TD, logits_TE = _selector(), torch.randn(80, 6), torch.randn(80, 5)
    wanted_TE, length_T, _, _ = _expected(selector, x_TD, logits_TE)
    found = selector(x_TD, logits_TE, None, False)
    torch.testing.assert_close(found.weights_TE, wanted_TE)
    assert torch.equal(found.chosen_TE.sum(1), length_T)
    assert set(length_T.tolist()) == {1, 2, 3}


def test_training_draws_lengths_as_the_softmax_says_and_runs_all_k() -> None:
    selector, x_TD, logits_TE = _selector(), torch.randn(1, 6), torch.randn(1, 5)
    _, _, m_TK, _ = _expected(selector, x_TD, logits_TE)
    found = selector(x_TD.expand(8000, 6), logits_TE.expand(8000, 5), None, True)
    lengths = (found.weights_TE > 0).sum(1)
    shares = torch.bincount(lengths, minlength=4)[1:] / 8000
    torch.testing.assert_close(shares, torch.softmax(m_TK[0], 0).detach(), atol=0.03, rtol=0)
    assert torch.equal(found.chosen_TE.sum(1), torch.full((8000,), 3))
    torch.testing.assert_close(found.weights_TE.sum(1), torch.ones(8000))


def test_losses_are_the_expectations() -> None:
    config = MoELayer.Config(
        selector=TOPANY.Config(k=3, sparsity=0.5, fidelity=0.25), expert=LinearExpert.Config()
    )
    layer = MoELayer(config, 6, 4, 5)
    torch.nn.init.normal_(layer.selector.lengths.weight)
    x_TD = torch.randn(40, 6)
    layer(x_TD)
    losses = take_losses({"": layer})
    _, _, m_TK, w_TK = _expected(layer.selector, x_TD, layer.router(x_TD, None))
    pi_TK = torch.softmax(m_TK, 1)
    share = sum(pi_TK[:, c] * (c + 1) / 3 for c in range(3)).mean()
    cut = sum(pi_TK[:, c] * w_TK[:, c + 1 :].sum(1) for c in range(3)).mean()
    torch.testing.assert_close(losses["loss/topany_sparsity/"], 0.5 * share)
    torch.testing.assert_close(losses["loss/topany_fidelity/"], 0.25 * cut)


def test_the_net_learns_from_the_task_and_from_its_losses() -> None:
    layer = MoELayer(
        MoELayer.Config(selector=TOPANY.Config(k=2, sparsity=1.0), expert=LinearExpert.Config()),
        6,
        4,
        4,
    )
    layer(torch.randn(40, 6)).square().sum().backward()
    assert layer.selector.lengths.weight.grad.any(), "the task teaches it"
    assert layer.router.rows["0"].grad.any()
    optimizer = torch.optim.Adam(layer.selector.parameters(), lr=0.05)
    for _ in range(100):
        layer(torch.randn(40, 6))
        loss = take_losses({"": layer})["loss/topany_sparsity/"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad(), observing(layer) as seen:
        layer(torch.randn(40, 6))
    assert seen[""][0].chosen.sum(1).tolist() == [1] * 40, "sparsity alone leaves one expert"


def test_fewer_experts_than_k_growth_masks_and_half_precision() -> None:
    layer = MoELayer(
        MoELayer.Config(selector=TOPANY.Config(k=3), expert=LinearExpert.Config()), 6, 4, 1, 4
    )
    before = {name: value.detach().clone() for name, value in layer.named_parameters()}
    assert layer(torch.randn(7, 6)).shape == (7, 4)
    random = INITIALISERS["random"](INITIALISERS["random"].Config())
    layer.grow(Growth(experts=4, initialiser=random, seed=1, stage="s"))
    assert all(torch.equal(layer.state_dict()[name], value) for name, value in before.items())
    allowed_TE = torch.tensor([[True, False, False, False], [False] * 4])
    for training in (True, False):
        found = layer.selector(torch.randn(2, 6), torch.randn(2, 4), allowed_TE, training)
        assert found.chosen_TE.tolist() == [[True, False, False, False], [False] * 4]
        assert found.weights_TE.tolist() == [[1.0, 0, 0, 0], [0.0] * 4]
    half = layer.bfloat16()
    assert half(torch.randn(5, 6).bfloat16()).isfinite().all()


def test_refused_settings_and_lanes() -> None:
    with pytest.raises(ValueError, match="k must be at least 2"):
        TOPANY.Config(k=1)
    assert "use topk" in str(TOPANY.Config().problems(SimpleNamespace(acts=True))[0])
    assert TOPANY.Config().problems(SimpleNamespace(acts=False)) == []
