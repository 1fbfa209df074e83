"""Optimizer state by parameter name: it survives growth, restarts and another parameter order."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from workers.adam import MemoryOrderAdam
from workers.contract import InputError

MASTER = "master"
"""Name of a master weight (``workers.supervised.precision``) among what is kept for a parameter."""

_ADAM = frozenset({"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"})
_KEYS: dict[type, frozenset[str]] = {
    torch.optim.SGD: frozenset({"momentum_buffer"}),
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
    MemoryOrderAdam: _ADAM,
}
"""What each known optimizer keeps for a parameter; others are taken as they come."""


def named_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """``"<parameter name>/<key>" -> tensor`` for all that the optimizer keeps; numbers as tensors.

    The tensors are the optimizer's own, not copies.
    """
    return {
        f"{name}/{key}": torch.as_tensor(value)
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def load_named_state(
    module: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]
) -> None:
    """Replace all that the optimizer keeps by copies from ``state``, and train all of ``module``.

    Each keeps the type that it was saved in, which need not be its parameter's (master weights).
    Raises InputError, with nothing changed, on names, keys or shapes that do not fit. Learning
    rates and other settings are not part of the state.
    """
    parameters = dict(module.named_parameters())
    check_named_state(parameters, optimizer, state)
    rebind(optimizer, module, keep=False)
    group_of = {p: group for group in optimizer.param_groups for p in group["params"]}
    for entry, tensor in state.items():
        name, _, key = entry.rpartition("/")
        parameter = parameters[name]
        group = group_of[parameter]
        on_host = key == "step" and not (group.get("capturable") or group.get("fused"))
        if on_host:
            optimizer.state[parameter][key] = tensor.clone()
        elif tensor.dim():  # in the order of memory of its parameter, as optimizers make it
            place = torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False)
            optimizer.state[parameter][key] = place.copy_(tensor)
        else:
            optimizer.state[parameter][key] = tensor.to(parameter.device, copy=True)


def check_named_state(
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Tensor],
) -> None:
    """Refuse (InputError) names, keys and shapes that the parameters or the optimizer lack."""
    allowed = _KEYS.get(type(optimizer))
    problems = []
    for entry, tensor in state.items():
        name, _, key = entry.rpartition("/")
        if name not in parameters:
            problems.append(f"{entry}: the model has no parameter {name!r}")
        elif allowed is not None and key not in allowed:
            problems.append(
                f"{entry}: {type(optimizer).__name__} keeps {', '.join(sorted(allowed))}"
            )
        elif tensor.dim() and tensor.shape != parameters[name].shape:
            found, wanted = tuple(tensor.shape), tuple(parameters[name].shape)
            problems.append(f"{entry}: shape {found}, the parameter has {wanted}")
    if problems:
        raise InputError(
            "saved optimizer state does not fit; restore with the config that the checkpoint was "
            "made with:\n  " + "\n  ".join(problems)
        )


def rebind(
    optimizer: torch.optim.Optimizer,
    module: nn.Module,
    keep: bool,
    narrowed: Mapping[str, tuple[nn.Parameter, int, Tensor]] | None = None,
) -> None:
    """Make the optimizer train exactly the parameters of ``module``, in the module's order.

    A new parameter joins the group of its namesakes (names that differ in numbers only), else the
    first group. ``keep``: old parameters keep their state untouched, new ones start without any;
    otherwise all state is dropped. ``narrowed``: name -> (the parameter it replaced, dimension,
    indices kept), whose state is cut the same way.
    """
    group_of = {p: i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}
    named = dict(module.named_parameters())
    replaced = {name: old for name, (old, _, _) in (narrowed or {}).items()}
    namesakes = {
        _pattern(name): group_of[replaced.get(name, p)]
        for name, p in named.items()
        if replaced.get(name, p) in group_of
    }
    members: dict[int, list[tuple[str, nn.Parameter]]] = defaultdict(list)
    for name, parameter in named.items():
        index = group_of.get(parameter, namesakes.get(_pattern(name), 0))
        members[index].append((name, parameter))
    for i, group in enumerate(optimizer.param_groups):
        group["params"] = [parameter for _, parameter in members[i]]
        if "param_names" in group:
            group["param_names"] = [name for name, _ in members[i]]
    if not keep:
        optimizer.state.clear()
        return
    for name, (old, dim, kept) in (narrowed or {}).items():
        if old in optimizer.state:
            cut = _cut(optimizer.state[old], old.shape, dim, kept)
            optimizer.state[named[name]] = cut
    trained = set(named.values())
    for gone in [p for p in optimizer.state if p not in trained]:
        del optimizer.state[gone]


Entries = Mapping[str, tuple[tuple[int, Tensor], ...] | None]
"""Name of a parameter -> (dimension, indices) of entries of it; None = all of them."""


def clear_entries(optimizer: torch.optim.Optimizer, module: nn.Module, entries: Entries) -> None:
    """Make the optimizer forget these entries of parameters, which start as new ones do.

    Of a whole parameter all state is dropped. Of some of its entries, what is kept for each one is
    set to 0; what is kept for the parameter as a whole (a count of steps) goes on, and so does its
    master weight, which follows the parameter by itself.
    """
    parameters = dict(module.named_parameters()) if entries else {}
    for name, places in entries.items():
        parameter = parameters[name]
        if places is None:
            optimizer.state.pop(parameter, None)
        elif parameter in optimizer.state:
            for dim, indices in places:
                clear(optimizer.state[parameter], parameter, dim, indices)


def clear(state: Mapping[str, Any], parameter: Tensor, dim: int, indices: Tensor) -> None:
    """Set to 0 what is kept for these entries of a parameter, its master weight excepted."""
    for key, value in state.items():
        if key != MASTER and isinstance(value, Tensor) and value.shape == parameter.shape:
            value.index_fill_(dim, indices.to(value.device), 0.0)


def _cut(state: Mapping[str, Any], shape: torch.Size, dim: int, kept: Tensor) -> dict[str, Any]:
    return {
        key: value.index_select(dim, kept)
        if isinstance(value, Tensor) and value.shape == shape
        else value
        for key, value in state.items()
    }


def _pattern(name: str) -> str:
    return re.sub(r"\d+", "#", name)
