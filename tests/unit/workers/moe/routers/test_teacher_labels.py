"""Routers fitted to the experts that come closest to a dense teacher."""

from __future__ import annotations

import pytest
import torch

from tests.unit.workers.moe.routers.parts import check_growth_and_restoring, layer
from workers.moe.routers import RouterContext, TeacherLabelsRouter

CONFIG = TeacherLabelsRouter.Config(k=1)


def test_it_learns_the_cheapest_experts() -> None:
    x, y = torch.randn(80, 5), torch.arange(80) % 3
    x[torch.arange(80), y] += 4.0
    cost = torch.rand(80, 3) + 1.0
    cost[torch.arange(80), y] = 0.0
    made = layer(CONFIG)
    made.router.fit(x, cost, 0)
    logits = made.router(x, RouterContext())
    assert float((logits.argmax(1) == y).float().mean()) > 0.95


def test_the_fit_goes_to_the_least_divergence() -> None:
    """Inputs that all look alike: the scores become the shares of the labels, q = 1/k on each."""
    cost = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 3.0, 1.0, 2.0]]).repeat(10, 1)
    made = layer(TeacherLabelsRouter.Config(steps=600), experts=4)
    made.router.fit(torch.ones(20, 5), cost, 0)
    found = torch.softmax(made.router(torch.ones(1, 5), RouterContext()), -1)[0]
    torch.testing.assert_close(found, torch.tensor([0.5, 0.25, 0.25, 0.0]), rtol=0, atol=0.01)


def test_experts_are_not_touched_and_gradients_train_it_between_fits() -> None:
    made = layer(CONFIG).train()
    before = {name: p.clone() for name, p in made.experts.named_parameters()}
    with torch.no_grad():
        made.router.fit(torch.randn(9, 5), torch.rand(9, 3), 0)
    assert all(torch.equal(before[name], p) for name, p in made.experts.named_parameters())
    assert all(p.grad is None for p in made.parameters())
    made(torch.randn(4, 5)).sum().backward()
    assert all(row.grad is not None for row in made.router.rows.values())
    check_growth_and_restoring(lambda: layer(CONFIG), torch.randn(4, 5))


def test_impossible_settings() -> None:
    for settings in ({"k": 0}, {"steps": 0}, {"rate": 0.0}):
        with pytest.raises(ValueError, match=r"must be|above 0"):
            TeacherLabelsRouter.Config(**settings)
