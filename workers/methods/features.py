"""A sample's features: what a model's readout reads. Knows no data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from workers.contract import LaneSettings
from workers.models import HEADS, MODELS
from workers.tables import Problem, construct


def outputs_and_features(model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The model's outputs [B, C] to samples [B, ...], and their features [B, D]."""
    seen: list[Tensor] = []
    readout: nn.Module = model.readout
    handle = readout.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        outputs = model(x)
    finally:
        handle.remove()
    return outputs, seen[-1].flatten(1)


def featureless(lane: LaneSettings, what: str) -> list[Problem]:
    """The problem of ``what`` in a lane whose model has no readout."""
    with torch.device("meta"):
        shape = lane.input_shape, lane.outputs
        model = construct(MODELS, lane.sections["model"], *shape, seed=0)
    if getattr(model, "readout", None) is not None:
        return []
    able = ", ".join(sorted(name for name, head in HEADS.items() if hasattr(head, "readout")))
    found = f"{what} compares features, and the lane's model has no readout"
    allowed = f"use a classifier with one of the heads {able}, or a Model with `readout`"
    return [Problem("kind", found, allowed)]
