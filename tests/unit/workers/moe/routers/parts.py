"""Small layers and heads with a router of choice, and what tests of several routers ask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from workers.models.heads.moe import MoEHead
from workers.moe.experts import LinearExpert
from workers.moe.growth.growable import Growth, arch, ensure_arch, growables
from workers.moe.growth.initialisers import Random
from workers.moe.layers import MoELayer
from workers.moe.routed import StepContext
from workers.moe.stepping import stepping

DOMAINS = ("a", "b", "c", "d")


def layer(
    router: Any, experts: int = 3, inputs: int = 5, cls: Any = MoELayer, **settings: Any
) -> Any:
    """A layer of affine experts."""
    config = cls.Config(router=router, expert=LinearExpert.Config(), **settings)
    return cls(config, inputs, inputs, experts, 8, seed=3)


def head(
    router: Any, experts: int = 3, widths: tuple[int, ...] = (6, 4), inputs: int = 5
) -> MoEHead:
    """Two routed layers and a dense one."""
    inner = MoELayer.Config(router=router, expert=LinearExpert.Config())
    return MoEHead(MoEHead.Config(hidden=widths, layer=inner), inputs, 3, experts, 8, seed=2)


def grow(
    module: nn.Module, experts: int, initialiser: Any = None, inputs: Tensor | None = None
) -> None:
    """All growable parts have so many experts afterwards."""
    made = initialiser or Random(Random.Config())
    for part in growables(module).values():
        growth = Growth(experts=experts, initialiser=made, seed=7, stage=None, inputs=inputs)
        part.check(growth)
        part.grow(growth)


def told(module: nn.Module, domain_B: list[int]) -> Any:
    """A training step on samples of these domains."""
    return stepping(module, StepContext(0.5, DOMAINS, torch.tensor(domain_B)))


def check_growth_and_restoring(make: Any, x: Tensor, domain_B: list[int] | None = None) -> None:
    """Growth keeps every old value bit for bit, and a fresh model takes the grown one's state."""
    grown = make()
    before = {name: value.clone() for name, value in grown.state_dict().items()}
    grow(grown, 5)
    after = grown.state_dict()
    for name, value in before.items():
        same = after[name][: len(value)] if after[name].shape != value.shape else after[name]
        assert torch.equal(same, value), name
    assert len(after) > len(before)
    fresh = make()
    ensure_arch(fresh, arch(grown))
    fresh.load_state_dict(after)
    with told(grown, domain_B or [0] * len(x)), told(fresh, domain_B or [0] * len(x)):
        assert torch.equal(grown(x), fresh(x))
