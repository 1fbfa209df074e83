"""A model with parts of it left out, on the samples of a probe. Nothing of the model changes."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from workers.diagnostics.base import Probe
from workers.diagnostics.expert_outputs import passes
from workers.moe.routed import routed_layers


def without_layers(probe: Probe) -> dict[str, float]:
    """``whole`` and ``drop/<layer>`` -> accuracy."""
    parts = routed_layers(probe.model)
    if not parts:
        return {}
    found = {"whole": _accuracy(probe.model, probe)}
    for name, layer in parts.items():
        handle = layer.register_forward_hook(_left_out)
        try:
            found[f"drop/{name}"] = _accuracy(probe.model, probe)
        finally:
            handle.remove()
    return found


def without_width(probe: Probe, share: float) -> float | None:
    """Accuracy with experts of this share of their width; None where none can be narrowed."""
    seen = passes(probe)
    narrowed = copy.deepcopy(probe.model)
    cut = 0
    for name, layer in routed_layers(narrowed).items():
        kept: Any = seen.get(name, ())
        x_TD = torch.cat([routed.x for routed in kept]) if kept else None
        for expert in layer.experts.values():
            width = max(1, round(share * expert.width))
            if x_TD is not None and expert.narrows and width < expert.width:
                expert.narrow(width, x_TD)
                cut += 1
    return _accuracy(narrowed, probe) if cut else None


def _left_out(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """The layer's input in the place of its output, or 0."""
    given: Tensor = inputs[0]
    return given.to(output.dtype) if given.shape == output.shape else torch.zeros_like(output)


@torch.no_grad()
def _accuracy(model: nn.Module, probe: Probe) -> float:
    """Share of the targets that the largest output names."""
    assert probe.targets is not None
    right = model(probe.inputs).argmax(-1) == probe.targets
    return float(right.double().mean())
