"""What makes units and what reads them: linear maps, convolutions, and layers of experts.

Letters: H units, D inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ops.expert_mlp import ACTIVATIONS
from workers.moe.experts.feed_forward import FeedForward
from workers.moe.routed import RoutedLayer
from workers.units.hidden import Hidden
from workers.units.side import (
    ACTIVITIES,
    CAN_BE_SILENT,
    Inside,
    Output,
    Side,
    Units,
    as_linear,
    blocks,
    constant,
    direction,
    single,
    strided,
)

Dense = (nn.Linear, nn.Conv2d)


def between(hidden: Hidden) -> Units | None:
    """The units that a module tells; None where what makes or reads them does not tell how."""
    incoming = list(_made(hidden.made_by, hidden.gain))
    count = len(incoming[0].places_HK) if incoming else 0
    if hidden.norm is not None:
        incoming += [
            Side(p, 0, single(count), partial(constant, value))
            for p, value in ((hidden.norm.weight, 1.0), (hidden.norm.bias, 0.0))
        ]
    copies = 2 if hidden.activation == "crelu" else 1
    outgoing = [list(_reads(reader, count, copies)) for reader in hidden.read_by]
    if not count or not outgoing or not all(outgoing):
        return None
    behind = hidden.seen_in is not None
    return Units(
        incoming=tuple(incoming),
        outgoing=tuple(side for sides in outgoing for side in sides),
        seen=Output(
            hidden.seen_in or hidden.norm or hidden.made_by,
            ACTIVITIES["identity" if behind else hidden.activation],
        ),
        can_be_silent=hidden.activation in CAN_BE_SILENT,
    )


def _made(module: nn.Module, gain: float | None) -> Iterator[Side]:
    """What gives output j of a module; nothing where it does not tell."""
    if isinstance(module, Dense):
        draw = as_linear(module.weight) if gain is None else partial(direction, gain)
        yield from _rows(module.weight, module.bias, draw, zero_bias=gain is not None)
    elif adds_up(module):
        for form in forms_of(module).values():
            assert form is not None
            weight, bias = form.maps[-1]
            yield from _rows(weight, bias, as_linear(weight), zero_bias=False)


def _rows(weight: Any, bias: Any, draw: Any, zero_bias: bool) -> Iterator[Side]:
    yield Side(weight, 0, single(len(weight)), draw)
    if bias is not None:
        of_bias = partial(constant, 0.0) if zero_bias else draw
        yield Side(bias, 0, single(len(bias)), of_bias)


def _reads(module: nn.Module, count: int, copies: int) -> Iterator[Side]:
    """What reads input j of a module; nothing where it does not tell."""
    if isinstance(module, Dense):
        yield _columns(module.weight, count, copies)
    elif adds_up(module):
        yield from (_columns(weight, count, copies) for weight in _read_by(module) or ())


def _read_by(layer: Any) -> list[Any] | None:
    """All parameters of a layer of experts that read its input; None where it does not tell."""
    rows = [router.reading() for router in layer.routers]
    if any(read is None for read in rows) or list(layer.selector.parameters()):
        return None
    gates = layer.shared.gates_KD
    firsts = [form.maps[0][0] for form in forms_of(layer).values() if form is not None]
    return [*firsts, *(row for read in rows for row in read), *([] if gates is None else [gates])]


def _columns(weight: Any, count: int, copies: int) -> Side:
    """Entries that read each of the units: the last dimension of a matrix or a row, the second of
    a convolution; several behind one another where a unit is a whole image."""
    dim = 1 if weight.dim() == 4 else weight.dim() - 1
    size = weight.shape[dim] // (count * copies)
    places = strided(count, copies) if size == 1 else blocks(count, size)
    return Side(weight, dim, places, partial(constant, 0.0))


# ---------------------------------------------------------------- experts


def adds_up(module: nn.Module) -> Any:
    """Whether it is a layer of experts that gives the sum of their answers and nothing else, all
    of them being linear maps that can be told."""
    return (
        isinstance(module, RoutedLayer)
        and module.adds_up
        and all(form is not None for form in forms_of(module).values())
    )


def forms_of(layer: Any) -> dict[str, FeedForward | None]:
    """Name of each expert within the layer, shared ones too -> its linear maps."""
    routed = {f"experts.{number}": expert for number, expert in layer.experts.items()}
    shared = {f"shared.{place}": expert for place, expert in enumerate(layer.shared)}
    return {name: expert.feed_forward() for name, expert in (routed | shared).items()}


def inside(layer: Any) -> Iterator[tuple[str, Units]]:
    """Hidden units of the layer's experts: (name within the layer, units)."""
    for name, form in forms_of(layer).items():
        if form is None:
            continue
        kind, _, number = name.partition(".")
        between = len(form.maps) - 1
        for place in range(between):
            seen = Inside(layer, int(number) if kind == "experts" else None, _hidden(form, place))
            label = name if between == 1 else f"{name}.{place}"
            yield label, _between(form, place, seen)


def _between(form: FeedForward, place: int, seen: Inside) -> Units:
    """Units between two maps of an expert."""
    (weight, bias), (reader, _) = form.maps[place : place + 2]
    count = reader.shape[1]
    copies = len(weight) // count
    draw = as_linear(weight)
    made = [tensor for tensor in (weight, bias) if tensor is not None]
    return Units(
        incoming=tuple(_side(t, 0, strided(count, copies), draw) for t in made),
        outgoing=(_side(reader, 1, single(count), partial(constant, 0.0)),),
        seen=seen,
        can_be_silent=form.activation in CAN_BE_SILENT,
    )


def _side(tensor: Tensor, dim: int, places_HK: Tensor, draw: Any) -> Side:
    assert isinstance(tensor, nn.Parameter), "an expert's maps are its own parameters"
    return Side(tensor, dim, places_HK, draw)


def _hidden(form: FeedForward, place: int) -> Callable[[Tensor], Tensor]:
    """Tokens -> activity of the units behind the expert's map of this place."""
    activation = ACTIVATIONS[form.activation][0]

    def activity(x: Tensor) -> Tensor:
        for weight, bias in form.maps[: place + 1]:
            x = functional.linear(x, weight, bias)
            if form.gated:
                gate, value = x.chunk(2, -1)
                x = activation(gate) * value
            else:
                x = activation(x)
        return x

    return activity
