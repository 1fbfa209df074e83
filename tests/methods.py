"""Methods by themselves: built from settings, and told of stages on numbered samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from workers.contract import StageSpec, TaskSpec
from workers.methods import METHODS, MethodContext
from workers.parsing import choose
from workers.streams import Part, TaskData
from workers.supervised.objectives import Classification

CLASSIFICATION = Classification(Classification.Config())
NOTHING = nn.Module()


def build(kind: str, seed: int = 0, **options: Any) -> Any:
    """The method, as a lane with labels has it."""
    _, config, problems = choose(METHODS, {"kind": kind, **options}, "method")
    assert not problems, [str(problem) for problem in problems]
    return METHODS[kind](config, seed, CLASSIFICATION)


def numbered(first: int, count: int) -> TaskData:
    """A task whose i-th training sample is the number first + i."""
    values = torch.arange(first, first + count)
    x = values.double().reshape(-1, 1, 1, 1)
    train, test = Part(x, values), Part(x[:1], values[:1])
    return TaskData.of(train=train, test=test, source="n")


def over(data: TaskData) -> MethodContext:
    """The end of a stage on these data."""
    return MethodContext(
        model=NOTHING,
        optimizer=torch.optim.SGD([torch.zeros(1)], lr=0.1),
        stage=StageSpec(
            index=0,
            task=TaskSpec(index=0, name="t", domain="d"),
            intervals=1,
            seed=0,
            parent=None,
            settings_digest="",
        ),
        data=data,
        domains=("d",),
        device=torch.device("cpu"),
        objective=CLASSIFICATION,
        seed=0,
    )
