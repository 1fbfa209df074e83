"""Gates by task with a memory over depth: the equation, and that tasks do not teach each other."""

from __future__ import annotations

import pytest
import torch

from tests.unit.workers.moe.routers.parts import check_growth_and_restoring, head, layer, told
from tests.unit.workers.moe.routers.settings import lane
from workers.contract import InputError
from workers.moe.layers import ChainLayer
from workers.moe.routed import observing, routed_layers
from workers.moe.routers import PerTaskGateRouter

CONFIG = PerTaskGateRouter.Config(domains=4, memory=3)


def test_gates_and_memory_are_those_of_the_equation() -> None:
    model, x, domains = head(CONFIG).train(), torch.randn(5, 5), [3, 0, 1, 3, 2]
    for part in routed_layers(model).values():
        torch.nn.init.normal_(part.router.tasks)
    with told(model, domains), observing(model) as seen:
        model(x)
    for sample, domain in enumerate(domains):
        memory = torch.zeros(3)
        for name, part in routed_layers(model).items():
            routed, router = seen[name][0], part.router
            memory = memory + torch.tanh(
                router.project.weight @ routed.x[sample] + router.tasks[domain]
            )
            read = torch.cat([routed.x[sample], memory])
            wanted = [router.rows[e][domain] @ read + router.biases[e][domain] for e in router.rows]
            torch.testing.assert_close(routed.logits[sample], torch.stack(wanted))


def test_a_task_moves_its_own_gate_only_and_the_memory_learns_from_above() -> None:
    model = head(CONFIG).train()
    with told(model, [1, 1, 1]):
        model(torch.randn(3, 5)).square().sum().backward()
    first, second = (part.router for part in routed_layers(model).values())
    for row in (*first.rows.values(), *second.rows.values()):
        assert [bool(gate.abs().sum() > 0) for gate in row.grad] == [False, True, False, False]
    assert float(first.project.weight.grad.abs().sum()) > 0
    first.project.weight.grad = None
    with told(model, [1, 1, 1]), observing(model, lambda routed: routed) as seen:
        model(torch.randn(3, 5))
    seen["layers.1"][0].logits.sum().backward()
    assert float(first.project.weight.grad.abs().sum()) > 0


def test_without_memory_it_is_a_gate_for_each_task() -> None:
    made, x = layer(PerTaskGateRouter.Config(domains=2, memory=0)).train(), torch.randn(2, 5)
    with told(made, [0, 1]), observing(made) as seen:
        made(x)
    rows = torch.stack(list(made.router.rows.values()), 1)
    biases = torch.stack(list(made.router.biases.values()), 1)
    for sample in range(2):
        wanted = rows[sample] @ x[sample] + biases[sample]
        torch.testing.assert_close(seen[""][0].logits[sample], wanted)


def test_growth_chain_and_restoring() -> None:
    check_growth_and_restoring(lambda: head(CONFIG), torch.randn(3, 5), [0, 2, 3])
    chain = layer(CONFIG, cls=ChainLayer, rounds=2).train()
    with told(chain, [0, 1]):
        chain(torch.randn(2, 5)).sum().backward()
    assert chain.walk.state is None


def test_what_is_refused() -> None:
    given = lane(domain_given=True)
    assert CONFIG.problems(given) == []
    assert "the stream hides" in str(CONFIG.problems(lane())[0])
    few = PerTaskGateRouter.Config(domains=3)
    assert "the stream has 4 domains" in str(few.problems(given)[0])
    made = layer(few).train()
    with pytest.raises(InputError, match="domain number 3"), told(made, [3]):
        made(torch.randn(1, 5))
    with pytest.raises(InputError, match="was not told it"):
        made(torch.randn(1, 5))
    with pytest.raises(ValueError, match="memory not negative"):
        PerTaskGateRouter.Config(memory=-1)
