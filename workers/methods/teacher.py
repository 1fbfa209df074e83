"""A frozen copy of a model, which later ones are compared with. Knows no data."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from workers.moe.growth import surgery

ARCH = "arch"
"""Name of the architecture in the state: JSON as bytes, beside parameters and buffers."""


class Teacher:
    """A model as it was when the copy was made, in evaluation mode, whatever came of it since."""

    def __init__(self, model: nn.Module) -> None:
        """``model``: nobody else's."""
        self._model = model.eval().requires_grad_(False)

    @classmethod
    def of(cls, model: nn.Module) -> Teacher:
        """A copy of the model as it is."""
        return cls(copy.deepcopy(model))

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Its outputs, without a graph."""
        outputs: Tensor = self._model(x)
        return outputs

    def state(self) -> dict[str, Tensor]:
        """Copies of parameters and buffers, with the architecture."""
        told = json.dumps(surgery.arch(self._model), sort_keys=True).encode()
        arch = torch.frombuffer(bytearray(told), dtype=torch.uint8)
        return {ARCH: arch, **{n: t.clone() for n, t in self._model.state_dict().items()}}

    @classmethod
    def restored(cls, model: nn.Module, state: Mapping[str, Tensor]) -> Teacher:
        """The teacher of ``state``; ``model``: the one that grew from it, which stays as it is."""
        rest = dict(state)
        arch = json.loads(bytes(rest.pop(ARCH).cpu().numpy()))
        found = copy.deepcopy(model)
        surgery.ensure_arch(found, arch)
        found.load_state_dict(rest)
        return cls(found)
