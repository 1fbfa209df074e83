"""Small dense and routed classifiers for the tests of merges."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workers.merges import Scene
from workers.models import MODELS
from workers.parsing import checked
from workers.tables import construct

SHAPE, CLASSES = (1, 4, 4), 5
SCENE = Scene(stream=None, domains=(("a",), ("b",)), seed=0)


def classifier(head: dict[str, Any], experts: int = 1, seed: int = 0, hidden: int = 12) -> Any:
    """A classifier with this head on a backbone of 12 features."""
    raw = {
        "kind": "classifier",
        "experts": experts,
        "backbone": {"kind": "mlp", "hidden": [hidden]},
        "head": head,
    }
    _, config = checked(MODELS, raw)
    return construct(MODELS, config, SHAPE, CLASSES, seed).eval()


def dense(hidden: list[int], seed: int = 0) -> Any:
    return classifier({"kind": "mlp", "hidden": hidden}, seed=seed)


def routed(experts: int, width: int | None, k: int, hidden: list[int], last: bool) -> Any:
    """A head of bottleneck experts."""
    layer = {
        "kind": "moe",
        "selector": {"kind": "topk", "k": k, "weights": "chosen" if k > 1 else "full"},
        "expert": {"kind": "bottleneck", "width": width},
    }
    head = {"kind": "moe", "hidden": hidden, "dense_last": last, "layer": layer}
    return classifier(head, experts, seed=7)


def samples() -> Tensor:
    return torch.rand(64, *SHAPE, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def answer(model: Any) -> Tensor:
    found: Tensor = model(samples())
    return found
