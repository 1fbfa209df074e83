"""Gates by task over a hierarchy of experts: who sees whom, and who teaches whom."""

from __future__ import annotations

import pytest
import torch

from tests.unit.workers.moe.routers.parts import check_growth_and_restoring, grow, layer, told
from tests.unit.workers.moe.routers.settings import lane
from workers.moe.routed import observing
from workers.moe.routers import HierarchicalMultigateRouter

CONFIG = HierarchicalMultigateRouter.Config(groups=((0, 2), (1,)))
SEES = {0: {0, 1, 3}, 1: {0, 2, 4}, 2: {0, 1, 5}}
"""Shared 0; groups 1, 2; tasks 3, 4, 5."""


def test_each_task_sees_shared_group_and_own_experts() -> None:
    made = layer(CONFIG, experts=6)
    seen = made.router.seen()
    assert {d: set(seen[d].nonzero().flatten().tolist()) for d in range(3)} == SEES


def test_the_gate_is_a_softmax_over_what_a_task_sees() -> None:
    made, x, domains = layer(CONFIG, experts=6).train(), torch.randn(3, 5), [0, 1, 2]
    with told(made, domains), observing(made) as seen:
        y = made(x)
    for sample, domain in enumerate(domains):
        sees = sorted(SEES[domain])
        rows = torch.stack([made.router.rows[str(e)][domain] for e in sees])
        biases = torch.stack([made.router.biases[str(e)][domain] for e in sees])
        gate = torch.softmax(rows @ x[sample] + biases, 0)
        weights = torch.zeros(6)
        weights[sees] = gate
        torch.testing.assert_close(seen[""][0].weights[sample], weights)
        wanted = sum(g * made.expert(e)(x[sample]) for g, e in zip(gate, sees, strict=True))
        torch.testing.assert_close(y[sample], wanted)


def test_experts_of_others_learn_nothing() -> None:
    made = layer(CONFIG, experts=6).train()
    with told(made, [1, 1]):
        made(torch.randn(2, 5)).square().sum().backward()
    learns = {e for e in range(6) if float(made.expert(e).up.weight.grad.abs().sum()) > 0}
    assert learns == SEES[1]
    moved = {int(e) for e, row in made.router.rows.items() if float(row.grad.abs().sum()) > 0}
    assert moved == SEES[1]


def test_growth_into_the_hierarchy_and_beyond() -> None:
    made = layer(CONFIG, experts=1)
    grow(made, 4)
    assert made.router.seen().int().tolist() == [[1, 1, 0, 1], [1, 0, 1, 0], [1, 1, 0, 0]]
    grow(made, 7)
    assert made.router.seen()[:, 6].all()
    check_growth_and_restoring(lambda: layer(CONFIG, experts=3), torch.randn(3, 5), [0, 1, 2])


def test_what_is_refused() -> None:
    three = lane(("a", "b", "c"), domain_given=True, final_experts=6)
    assert CONFIG.problems(three) == []
    assert "at least 6" in str(
        CONFIG.problems(lane(("a", "b", "c"), domain_given=True, final_experts=5))[0]
    )
    assert "the stream has 4 domains" in str(CONFIG.problems(lane(domain_given=True))[0])
    for groups in (((0, 0),), ((1, 2),), ()):
        with pytest.raises(ValueError, match="groups must hold each domain"):
            HierarchicalMultigateRouter.Config(groups=groups)
    with pytest.raises(ValueError, match="shared must be at least 1"):
        HierarchicalMultigateRouter.Config(shared=0)
