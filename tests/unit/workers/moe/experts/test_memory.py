"""The memory expert: one remembered sample is the answer; contents grow, travel and resume."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from orchestrator.config.file import check
from workers.contract import InputError
from workers.moe.experts.linear import LinearExpert
from workers.moe.experts.memory import MemoryExpert
from workers.moe.growth.growable import Growth
from workers.moe.growth.initialisers import INITIALISERS
from workers.moe.layers.moe import MoELayer


def memory(places: int = 4, neighbours: int = 2) -> MemoryExpert:
    return MemoryExpert(MemoryExpert.Config(places=places, neighbours=neighbours), 3, 2)


def layer(experts: int = 2, **settings: Any) -> MoELayer:
    config = MoELayer.Config(
        expert=LinearExpert.Config(), more_experts=(MemoryExpert.Config(**settings),)
    )
    return MoELayer(config, 3, 2, experts, 4, seed=0)


def test_one_remembered_sample_is_the_answer() -> None:
    expert, y = memory(), torch.tensor([[2.0, -1.0]])
    assert not expert(torch.randn(5, 3)).any(), "nothing is remembered yet"
    expert.watch(torch.randn(1, 3), y)
    assert torch.allclose(expert(torch.randn(5, 3)), y.expand(5, 2))


def test_the_kernel_average_of_the_nearest() -> None:
    expert, x, y = memory(), torch.randn(4, 3), torch.randn(4, 2)
    expert.watch(x, y)
    query = torch.randn(6, 3, requires_grad=True)
    found = expert(query)
    for one, answer in zip(query, found, strict=True):
        square = (x - one).square().sum(1)
        near = square.argsort()[:2]
        kernel = torch.exp(-square[near] / (2 * square[near].mean()))
        expected = (kernel[:, None] * y[near]).sum(0) / kernel.sum()
        assert torch.allclose(answer, expected, atol=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), query)
    assert gradient.isfinite().all()
    assert gradient.any()
    assert expert(x).isfinite().all(), "at a remembered input"


def test_it_is_a_uniform_sample_of_all_tokens() -> None:
    torch.manual_seed(0)
    counts = torch.zeros(12)
    for _ in range(600):
        expert = memory()
        for part in torch.arange(12.0).split(5):
            expert.watch(part[:, None].expand(-1, 3), part[:, None].expand(-1, 2))
        kept = expert.inputs_MD[:, 0]
        assert len(kept.unique()) == 4
        assert torch.equal(kept, expert.outputs_MO[:, 1])
        counts[kept.long()] += 1
    assert int(expert.met) == 12
    assert (counts / 600 - 4 / 12).abs().max() < 0.08


def trained(one: MoELayer, steps: int) -> Tensor:
    optimizer = torch.optim.SGD(one.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        y = one(torch.randn(6, 3))
        (y - 1).square().mean().backward()
        optimizer.step()
    return y


def test_a_training_step_remembers_what_the_layer_answered() -> None:
    one, x = layer(places=8), torch.randn(3, 3)
    y = one(x)
    expert = one.expert(1)
    assert torch.equal(expert.inputs_MD[:3], x)
    assert torch.equal(expert.outputs_MO[:3], y.detach())
    one.eval()
    one(torch.randn(3, 3))
    assert int(expert.met) == 3, "an evaluation leaves it alone"


def test_the_gate_learns_to_choose_it() -> None:
    one = layer()
    y = one(torch.randn(3, 3))
    y = one(torch.randn(3, 3))
    y.sum().backward()
    rows = dict(one.router.named_parameters())
    assert all(p.grad is not None and p.grad.any() for p in rows.values())


def test_growth_leaves_its_contents_and_state_travels() -> None:
    torch.manual_seed(3)
    one = layer()
    trained(one, 3)
    kept = {name: value.clone() for name, value in one.expert(1).state_dict().items()}
    random = INITIALISERS["random"]
    one.grow(Growth(experts=4, seed=5, initialiser=random(random.Config()), stage="s"))
    assert isinstance(one.expert(3), MemoryExpert), "forms go by turns"
    assert all(torch.equal(one.expert(1).state_dict()[name], kept[name]) for name in kept)
    assert int(one.expert(3).met) == 0
    trained(one, 1)
    assert int(one.expert(1).met) == 24
    other = layer()
    other.ensure_arch(one.arch())
    other.load_state_dict(one.state_dict())
    state = torch.get_rng_state()
    first = trained(one, 2)
    torch.set_rng_state(state)
    assert torch.equal(trained(other, 2), first)
    assert torch.equal(other.expert(1).inputs_MD, one.expert(1).inputs_MD)


def config(**sections: Any) -> dict[str, Any]:
    head = {"kind": "moe", "hidden": [32], "layer": {"more_experts": ["memory"]}}
    return {
        "name": "m",
        "stream": {"kind": "split", "dataset": "digits"},
        "model": {"experts": 2, "head": head},
        "lanes": [{}],
        **sections,
    }


def test_what_would_remember_something_else_is_refused() -> None:
    assert check(config(), "m").lanes
    with pytest.raises(InputError, match="2 workers, which see other tokens each"):
        check(config(workers=2), "m")
    with pytest.raises(ValueError, match="neighbours must be at least 1 and at most places"):
        MemoryExpert.Config(places=2, neighbours=3)


def test_half_types_are_answered_in_half_types() -> None:
    expert = memory()
    expert.watch(torch.randn(2, 3).bfloat16(), torch.randn(2, 2).bfloat16())
    assert expert.inputs_MD.dtype == torch.float32
    assert expert(torch.randn(3, 3).bfloat16()).dtype == torch.bfloat16


def test_frozen_it_remembers_no_more() -> None:
    one = layer()
    one(torch.randn(3, 3))
    for frozen, phase in [({1}, None), (set(), ("router", "backbone"))]:
        one.frozen, one.phase = frozenset(frozen), phase
        one(torch.randn(3, 3))
        assert int(one.expert(1).met) == 3
    one.phase = ("experts",)
    one(torch.randn(3, 3))
    assert int(one.expert(1).met) == 6
