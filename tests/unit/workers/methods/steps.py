"""A method around plain gradient steps in the test's process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from workers.contract import StageSpec, TaskSpec
from workers.edits import Change
from workers.methods import METHODS, Method, MethodContext
from workers.models import MODELS, Model
from workers.parsing import choose

STAGE = StageSpec(
    index=0,
    task=TaskSpec(index=0, name="t", domain="d"),
    intervals=1,
    seed=0,
    parent=None,
    settings_digest="",
)


def build(kind: str, seed: int = 0, **options: Any) -> Any:
    _, config, problems = choose(METHODS, {"kind": kind, **options}, "method")
    assert not problems, [str(problem) for problem in problems]
    return METHODS[kind](config, seed)


def classifier(seed: int = 3, **config: Any) -> Any:
    """A classifier of vectors of 6 numbers in 3 classes."""
    _, made, problems = choose(MODELS, {"kind": "classifier", **config}, "model")
    assert not problems, [str(problem) for problem in problems]
    net: Model = MODELS["classifier"](made, (6,), 3, seed)
    return net


DENSE: dict[str, Any] = {"head": {"kind": "mlp", "hidden": [5, 4]}}
ROUTED: dict[str, Any] = {
    "experts": 2,
    "max_experts": 4,
    "head": {"kind": "moe", "hidden": [5], "layer": {"expert": {"kind": "bottleneck", "width": 4}}},
}


def context(
    model: nn.Module, optimizer: torch.optim.Optimizer, change: Change | None = None
) -> MethodContext:
    return MethodContext(
        model=model,
        optimizer=optimizer,
        stage=STAGE,
        data=None,
        domains=("d",),
        device=torch.device("cpu"),
        objective=None,
        seed=0,
        change=change,
    )


def trained(
    method: Method, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 0
) -> Iterator[torch.Tensor]:
    """The batch of each step, before ``after_step`` and once more is asked for."""
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(steps):
        x = torch.randn(8, 6, generator=generator)
        y = torch.randint(3, (8,), generator=generator)
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(x), y).backward()
        method.after_backward(context(model, optimizer))
        optimizer.step()
        yield x
        method.after_step(context(model, optimizer))
