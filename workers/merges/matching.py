"""Which parts of a trained model become which parts of a mixture.

A routed layer stands where the trained model has a routed layer too, a linear map, or several maps
with ReLU between them (a head's ``Stack``): an expert of n maps takes the place of n maps, so that
with experts of two (bottleneck) the maps 1 and 2, 3 and 4, ... of a dense head become one layer
each, and an odd last map stays. All else must be the same on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from workers.contract import InputError
from workers.moe.experts import Expert
from workers.moe.experts.feed_forward import FeedForward, linear_map
from workers.moe.layers import MoELayer
from workers.moe.perceptron import Stack
from workers.moe.routers import Router

Source = Expert | FeedForward
"""What an expert can be made of."""


@dataclass(slots=True)
class Match:
    """How a mixture corresponds to one trained model."""

    layers: dict[str, list[Source]] = field(default_factory=dict)
    """Routed layer -> what stands there in the trained model: its experts, or a dense part."""
    rest: dict[str, Tensor] = field(default_factory=dict)
    """Parameter or buffer outside routed layers -> its value in the trained model."""


def match(model: nn.Module, trained: nn.Module) -> Match:
    """Find the parts of ``trained`` that those of ``model`` stand for; either may be on meta.

    Raises InputError where something has no counterpart of the same shape.
    """
    found = Match()
    _module(model, trained, "", found)
    return found


def give(expert: Expert, source: Source, where: str, fill: bool = True) -> None:
    """Set the expert's parameters from ``source``; not ``fill``: only look whether it can be.

    Raises InputError where their forms differ.
    """
    if isinstance(source, Expert):
        whole = source.feed_forward()
        if whole is None:
            return _copy(expert, source, where, fill)
        source = whole
    own = expert.feed_forward()
    if own is None:
        raise InputError(
            f"{where}: experts {type(expert).__name__} are not made of linear maps; use expert "
            "bottleneck, linear, mlp or gated"
        )
    if own.form != source.form or [w.shape for w, _ in own.maps] != [
        w.shape for w, _ in source.maps
    ]:
        raise InputError(
            f"{where}: an expert is {own.form}, what it is to be made of {source.form}; set the "
            "expert's kind, width and activation so that they are equal"
        )
    if not fill:
        return
    for (weight, bias), (new, shift) in zip(own.maps, source.maps, strict=True):
        weight.data.copy_(new)
        if bias is not None:
            assert shift is not None
            bias.data.copy_(shift)


def _copy(expert: Expert, source: Expert, where: str, fill: bool) -> None:
    own, there = expert.state_dict(), source.state_dict()
    if type(expert) is not type(source) or _shapes(own) != _shapes(there):
        raise InputError(
            f"{where}: an expert {type(expert).__name__} cannot be made of "
            f"{type(source).__name__} of other sizes; give both the same expert settings"
        )
    if fill:
        expert.load_state_dict(there)


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


# ---------------------------------------------------------------- finding


def _module(model: nn.Module, trained: Any, path: str, found: Match) -> None:
    if isinstance(model, MoELayer):
        return _layer(model, _sources(trained, path), path, found)
    if isinstance(model, Stack) and isinstance(trained, Stack):
        return _stack(model, trained, path, found)
    own = {
        **dict(model.named_parameters(recurse=False)),
        **dict(model.named_buffers(recurse=False)),
    }
    for name, value in own.items():
        there = getattr(trained, name, None)
        if not isinstance(there, Tensor) or there.shape != value.shape:
            shape = tuple(there.shape) if isinstance(there, Tensor) else "missing"
            raise _no_counterpart(_join(path, name), f"{tuple(value.shape)}", f"{shape}")
        if name not in model._non_persistent_buffers_set:
            found.rest[_join(path, name)] = there
    for name, child in model.named_children():
        there = getattr(trained, name, None)
        if there is None and child.state_dict():
            raise _no_counterpart(_join(path, name), type(child).__name__, "missing")
        if there is not None:
            _module(child, there, _join(path, name), found)


def _stack(model: Stack, trained: Stack, path: str, found: Match) -> None:
    """A head: each routed layer takes as many maps as its experts have."""
    left = list(trained.layers)
    for number, layer in enumerate(model.layers):
        where = _join(path, f"layers.{number}")
        mixed = bool(left) and isinstance(left[0], MoELayer)
        size = _maps(layer, where) if isinstance(layer, MoELayer) and not mixed else 1
        taken, left = left[:size], left[size:]
        if len(taken) < size:
            raise _misfit(path, trained)
        if isinstance(layer, MoELayer):
            _layer(layer, _sources(taken if len(taken) > 1 else taken[0], where), where, found)
        else:
            _module(layer, taken[0], where, found)
    if left:
        raise _misfit(path, trained)


def _misfit(path: str, trained: Stack) -> InputError:
    return InputError(
        f"{path}: the mixture's layers do not stand for the {len(trained.layers)} maps of the "
        "trained model's; an expert of n maps takes the place of n, so set hidden and dense_last "
        "of the head to what is left"
    )


def _layer(layer: MoELayer, sources: list[Source], path: str, found: Match) -> None:
    if len(layer.shared):
        raise InputError(
            f"{path}: the layer has {len(layer.shared)} shared experts, which nothing in a trained "
            "model stands for; set shared = 0"
        )
    found.layers[path] = sources


def _maps(layer: MoELayer, path: str) -> int:
    """Linear maps of each of the layer's experts."""
    experts: list[Any] = list(layer.experts.values())
    forms = {_map_count(expert) for expert in experts}
    if len(forms) != 1 or None in forms:
        raise InputError(
            f"{path}: experts {', '.join(layer.experts.kinds)} are not all made of the same number "
            "of linear maps; use one of bottleneck, linear and mlp"
        )
    return int(forms.pop() or 0)


def _map_count(expert: Expert) -> int | None:
    form = expert.feed_forward()
    return None if form is None else len(form.maps)


def _sources(trained: Any, path: str) -> list[Source]:
    if isinstance(trained, MoELayer):
        experts: list[Any] = list(trained.experts.values())
        return experts
    if isinstance(trained, list):
        return [_dense(trained, path)]
    return [_dense(list(trained.layers) if isinstance(trained, Stack) else [trained], path)]


def _dense(layers: list[Any], path: str) -> FeedForward:
    strange = [layer for layer in layers if not isinstance(layer, nn.Linear)]
    if strange:
        raise InputError(
            f"{path}: {type(strange[0]).__name__} stands there in the trained model; experts are "
            "made of linear maps or of a mixture's experts"
        )
    return FeedForward(tuple(linear_map(layer) for layer in layers))


def _no_counterpart(name: str, own: str, there: str) -> InputError:
    return InputError(
        f"{name} is {own} in the mixture, {there} in the trained model; give both the same "
        "settings but for the routed layers"
    )


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def check_linear(layer: MoELayer, where: str) -> None:
    """Refuse (InputError) routers whose rows cannot be set."""
    for router in layer.routers:
        if type(router).start_from is Router.start_from:
            raise InputError(
                f"{where}: rows of {type(router).__name__} cannot be set; use router linear or "
                "adaptive"
            )
