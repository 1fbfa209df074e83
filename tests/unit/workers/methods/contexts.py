"""Contexts of hooks on tiny models, without a trainer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from workers.contract import StageSpec, TaskSpec
from workers.edits import Change
from workers.methods import METHODS, MethodContext
from workers.parsing import choose
from workers.streams import Part, TaskData
from workers.supervised.objectives import Classification

CLASSIFICATION = Classification(Classification.Config())


def build(kind: str, seed: int = 0, objective: Any = CLASSIFICATION, **options: Any) -> Any:
    """A method of the table with these settings."""
    cls, config, problems = choose(METHODS, {"kind": kind, **options}, "method")
    assert cls is not None, [str(problem) for problem in problems]
    assert config is not None, [str(problem) for problem in problems]
    return cls(config, seed, objective)


def data(x: Tensor, y: Tensor) -> TaskData:
    return TaskData.of(train=Part(x, y), test=Part(x[:1], y[:1]), source="drawn")


def around(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    samples: TaskData | None = None,
    *,
    stage: int = 0,
    steps: int = 10,
    change: Change | None = None,
    objective: Any = CLASSIFICATION,
) -> MethodContext:
    """What a hook gets at some moment of a stage."""
    task = TaskSpec(index=stage, name=f"t{stage}", domain="d")
    return MethodContext(
        model=model,
        optimizer=optimizer or torch.optim.SGD(model.parameters(), lr=0.1),
        stage=StageSpec(
            index=stage, task=task, intervals=1, seed=stage, parent=None, settings_digest=""
        ),
        data=samples,
        domains=("d",),
        device=torch.device("cpu"),
        objective=objective,
        seed=stage,
        steps=steps,
        change=change,
    )


def net(seed: int = 0) -> nn.Sequential:
    """3 numbers -> 4 classes through 5 units."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))


def samples(count: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, generator=generator)
    return x, torch.randint(0, 4, (count,), generator=generator)
