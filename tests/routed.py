"""A model of routed layers small enough to compute by hand, and as inference policies meet it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from workers.contract import TaskSpec
from workers.inference import Subject
from workers.inference.steering import steerable
from workers.moe.experts.linear import LinearExpert
from workers.moe.layers.moe import MoELayer
from workers.moe.routers import RouterContext
from workers.moe.selectors import SELECTORS

INPUTS, CLASSES = 4, 3


class Two(nn.Module):
    """Two routed layers, one behind the other, tanh between."""

    def __init__(self, selector: dict[str, Any], experts: int = 3, last: int = CLASSES) -> None:
        super().__init__()
        cls: Any = SELECTORS[selector["kind"]]
        config = MoELayer.Config(selector=cls.Config(**selector), expert=LinearExpert.Config())
        self.first = MoELayer(config, INPUTS, 5, experts, seed=1)
        self.last = MoELayer(config, 5, last, experts, seed=2)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.first(x).tanh())
        return y


def tasks(*names: str) -> tuple[TaskSpec, ...]:
    return tuple(TaskSpec(index=n, name=name, domain=name) for n, name in enumerate(names))


def subject(model: nn.Module, **changes: Any) -> Subject:
    """The model as a policy meets it; it classifies unless ``changes`` say otherwise."""
    known: dict[str, Any] = {
        "model": model,
        "kind": "labels",
        "logits": True,
        "layers": steerable(model),
        "tasks": tasks("a", "b"),
        "seed": 0,
        "gates": dict,
        "references": None,
        "right": lambda outputs, y: outputs.argmax(-1) == y,
    }
    return Subject(**{**known, **changes})


def by_hand(layer: Any, x: Tensor, weights: Callable[[Tensor], Tensor]) -> Tensor:
    """``sum_e w_e E_e(x)``, the weights [T, E] made of the router's logits."""
    w = weights(layer.router(x, RouterContext()))
    y = torch.stack([expert(x) for expert in layer.experts.values()], 1)
    return (w.unsqueeze(-1) * y).sum(1)
