"""Torch's kernels for the optimizers: one step alike, parameters without gradient left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.fakes import tiny
from tests.unit.workers.supervised.loop import (
    ROUTED,
    assert_unchosen_keeps_its_bits,
    digests,
    opened,
)
from workers.contract import InputError
from workers.moe.growth.optimizer_state import load_named_state, named_state
from workers.supervised.optimizers import SGD, AdamW

MADE: dict[str, Any] = {
    "adamw": lambda how: AdamW(AdamW.Config(lr=0.01, weight_decay=0.5, implementation=how)),
    "sgd": lambda how: SGD(SGD.Config(momentum=0.9, weight_decay=0.1, implementation=how)),
}
each = pytest.mark.parametrize("kind", MADE)
both = pytest.mark.parametrize("how", ["foreach", "fused"])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2), nn.Linear(2, 2))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
    """The last layer gets no gradient at all."""
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model[:3](x).square().sum().backward()
    optimizer.step()


@each
@both
def test_the_kernels_take_the_same_steps(kind: str, how: str) -> None:
    one, other = network(), network()
    first, second = MADE[kind]("default").build(one), MADE[kind](how).build(other)
    assert second.param_groups[0][how] is True
    for seed in range(5):
        step(one, first, seed)
        step(other, second, seed)
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@each
@both
def test_without_gradient_nothing_moves_and_nothing_is_kept(kind: str, how: str) -> None:
    model = network()
    optimizer = MADE[kind](how).build(model)
    before = [p.clone() for p in model[3].parameters()]
    for seed in range(3):
        step(model, optimizer, seed)
    assert all(torch.equal(p, q) for p, q in zip(model[3].parameters(), before, strict=True))
    assert not any(p in optimizer.state for p in model[3].parameters())
    assert all(p in optimizer.state for p in model[0].parameters())


@each
@both
def test_state_by_name_goes_on_with_the_same_bits(kind: str, how: str) -> None:
    """A fused optimizer counts its steps in tensors beside the parameters."""
    model, again = network(), network()
    optimizer, fresh = MADE[kind](how).build(model), MADE[kind](how).build(again)
    for seed in range(3):
        step(model, optimizer, seed)
    saved = named_state(model, optimizer)
    again.load_state_dict(model.state_dict())
    load_named_state(again, fresh, saved)
    for name, tensor in named_state(again, fresh).items():
        assert tensor.dtype is saved[name].dtype
        assert tensor.data_ptr() != saved[name].data_ptr()
    for seed in range(3, 6):
        step(model, optimizer, seed)
        step(again, fresh, seed)
    kept = named_state(model, optimizer)
    assert all(torch.equal(kept[n], t) for n, t in named_state(again, fresh).items())
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
@both
def test_a_lane_taken_up_again_gives_the_same_bits(tmp_path: Path, kind: str, how: str) -> None:
    optimizer = {"kind": kind, "implementation": how}
    optimizer |= {"momentum": 0.9} if kind == "sgd" else {}
    training = {"steps": 9, "intervals": 3, "batch": 16, "optimizer": optimizer}
    changes = {"model": ROUTED, "training": training}
    assert digests(tmp_path, True, **changes) == digests(tmp_path, False, **changes)


@both
def test_experts_that_no_token_chose_get_no_state(how: str) -> None:
    optimizer = {"kind": "adamw", "weight_decay": 0.5, "implementation": how}
    training = {"steps": 6, "intervals": 1, "batch": 16, "optimizer": optimizer}
    trainer = opened(model=ROUTED, training=training)
    assert_unchosen_keeps_its_bits(trainer)


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(InputError, match=r"training\.optimizer"):
        tiny(training={"optimizer": {"kind": "adamw", "implementation": "quick"}})
