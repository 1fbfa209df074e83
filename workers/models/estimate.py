"""How large a model will be, without allocating it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from workers.contract import ModelShape
from workers.models import MODELS
from workers.moe.growth.growable import Growth, growables, shape
from workers.moe.growth.initialisers import Random
from workers.tables import construct

Built = TypeVar("Built", bound=nn.Module)


def estimate(
    config: Any, input_shape: tuple[int, int, int], outputs: int, experts: int
) -> ModelShape:
    """Shape of the model of ``config`` (an entry of MODELS) grown to ``experts``, reading unmask.

    For the reading rescale, whose widths follow the present number of experts, give the config
    with ``experts`` replaced and ``max_experts=None``. Raises InputError like building it would.
    """
    return estimate_of(lambda: construct(MODELS, config, input_shape, outputs, seed=0), experts)


def estimate_of(build: Callable[[], nn.Module], experts: int) -> ModelShape:
    """Shape of the module that ``build`` makes, grown to ``experts``; built without memory."""
    return shape(grown(build, experts))


def grown(build: Callable[[], Built], experts: int | None) -> Built:
    """The module that ``build`` makes, on the meta device (shapes without data), grown to
    ``experts``; None = as it starts."""
    with torch.device("meta"):
        model = build()
        for part in growables(model).values() if experts is not None else ():
            assert experts is not None
            rule = Random(Random.Config())
            growth = Growth(experts=experts, initialiser=rule, seed=0, stage=None)
            part.check(growth)
            part.grow(growth)
    return model
