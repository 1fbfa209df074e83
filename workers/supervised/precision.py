"""Training in bfloat16: parameters and activations in half the bytes, updates in float32.

The optimizer keeps a float32 copy (master weight) of each parameter that learns, so that updates
smaller than bfloat16's 8 bits add up (mixed precision training, Micikevicius et al., arXiv
1710.03740). Knows no data, no loop and no edit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from workers.moe.growth.growable import cast
from workers.moe.growth.optimizer_state import MASTER

Precision = Literal["float32", "bfloat16"]


def lower(model: nn.Module) -> None:
    """Make parameters bfloat16, those of batch norms apart.

    The model rounds floating-point inputs itself and answers in float32, so that losses are taken
    in it. Buffers stay as they are: running statistics move by less than bfloat16 resolves.
    """
    cast(model, torch.bfloat16)
    model.register_forward_pre_hook(_rounded)
    model.register_forward_hook(_widened)


def _rounded(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        value.bfloat16() if isinstance(value, Tensor) and value.is_floating_point() else value
        for value in inputs
    )


def _widened(model: nn.Module, inputs: Any, output: Any) -> Any:
    lowered = isinstance(output, Tensor) and output.dtype is torch.bfloat16
    return output.float() if lowered else output


def clipped_norm(model: nn.Module, most: float | None) -> Tensor:
    """The global gradient norm, before it is clipped to ``most``, if any."""
    norm = total_norm([p.grad for p in model.parameters() if p.grad is not None])
    if most is not None:
        nn.utils.clip_grads_with_norm_(model.parameters(), most, norm)
    return norm


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Global L2 norm; where some gradients are bfloat16 it is summed in float32."""
    if not any(gradient.dtype is torch.bfloat16 for gradient in gradients):
        return nn.utils.get_total_norm(gradients)
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
    return torch.linalg.vector_norm(torch.stack(norms))


def precise(optimizer: torch.optim.Optimizer, parameter: Tensor) -> Tensor:
    """The parameter as the optimizer moves it, float32: its master weight, where it has one.

    Entries that an edit or a method has changed since count as they are now: there the parameter is
    not the copy, rounded.
    """
    value = parameter.detach()
    master = optimizer.state[parameter].get(MASTER) if parameter in optimizer.state else None
    if master is None:
        return value.float()
    return torch.where(master.to(value.dtype) == value, master, value.float())


class MasterWeights(torch.optim.Optimizer):
    """Any optimizer on float32 copies of the parameters, which follow them rounded.

    What is kept for a parameter is what the inner optimizer keeps for its copy, and the copy
    itself under ``MASTER``: it is saved, restored, moved by growth and dropped with the rest. A
    copy is made when its parameter first has a gradient; one without gradient never moves.
    """

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        """``inner``: made for the same parameters; its groups and settings are taken over."""
        self.inner = inner
        groups = [dict(group) for group in inner.param_groups]
        for group in groups:
            names = group.pop("param_names", None)
            if names is not None:
                group["params"] = list(zip(names, group["params"], strict=True))
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Follow the gradients; ``closure`` is not called."""
        pairs: list[tuple[Tensor, Tensor]] = []
        groups: list[dict[str, Any]] = []
        kept: defaultdict[Tensor, Any] = defaultdict(dict)
        for group in self.param_groups:
            learning = [p for p in group["params"] if p.grad is not None]
            masters = [self._master(p) for p in learning]
            for parameter, master in zip(learning, masters, strict=True):
                kept[master] = _without_master(self.state[parameter])
                if master is not parameter:
                    master.grad = parameter.grad.float()
            pairs += zip(learning, masters, strict=True)
            groups.append({**group, "params": masters})
        self.inner.param_groups, self.inner.state = groups, kept
        self.inner.step()
        for parameter, master in pairs:
            self.state[parameter] |= kept[master]
            if master is not parameter:
                master.grad = None
                parameter.copy_(master)
        self.inner.param_groups, self.inner.state = [], defaultdict(dict)

    def _master(self, parameter: Tensor) -> Tensor:
        """The parameter's copy, made or brought up to date; itself where it is float32."""
        if parameter.dtype is torch.float32:
            return parameter
        state = self.state[parameter]
        found = precise(self, parameter)
        master: Tensor = state.setdefault(MASTER, found)
        return master if master is found else master.copy_(found)


def _without_master(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name != MASTER}
