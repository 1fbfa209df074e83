"""Our kernels for stock models: an experts implementation of transformers named ``growstage``.

``register()``, then ``model.set_experts_implementation("growstage")``; nothing else of the model
changes. Letters: T tokens, K slots, E experts, D inputs, W hidden units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workers.contract import InputError
from workers.models.huggingface.convention import is_gated
from workers.models.huggingface.experts import ACTIVATIONS, activation_of
from workers.moe.dispatch import FREE, dispatch
from workers.moe.experts.base import Kernel
from workers.moe.experts.mixture import PackedGated
from workers.moe.selection import Selection, Slots

NAME = "growstage"


def register() -> None:
    """Make the implementation known to transformers; doing it twice is harmless."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(NAME, experts)


def experts(module: Any, x_TD: Tensor, index_TK: Tensor, weights_TK: Tensor) -> Tensor:
    """Outputs [T, D] of a stock module of gated experts for the chosen slots.

    Raises InputError for experts of another form.
    """
    activation = activation_of(module)
    if not is_gated(module) or activation is None:
        raise InputError(
            f"{type(module).__name__}: the experts implementation {NAME!r} is for gated experts "
            f"without biases and one of {', '.join(sorted(set(ACTIVATIONS.values())))}; use "
            "'grouped_mm'"
        )
    count = len(module.gate_up_proj)
    counts_E = torch.bincount(index_TK.reshape(-1), minlength=count)
    slots = Slots(index_TK, weights_TK.to(x_TD.dtype), counts_E)
    gate_up, down = module.gate_up_proj.unbind(0), module.down_proj.unbind(0)
    kernel: Kernel = PackedGated(gate_up, down, activation)
    return dispatch(kernel, x_TD, Selection(slots=slots), FREE)
