"""What units did in forward passes, added up until it is taken.

Letters: U units of all places, one place behind the other; H units of one; R rows; T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from workers.moe.routed import Routed
from workers.units.finding import units_of
from workers.units.side import Inside, Output, Units


class Seen(NamedTuple):
    """What units did since it was last asked, float64 [U] each."""

    size: Tensor
    """Sum over rows of ``|h_j|``."""
    fired: Tensor
    """Rows for which ``h_j`` is not 0."""
    rows: Tensor
    """Rows that the unit was asked: samples, positions of them, places of an image, or tokens that
    chose the expert which it belongs to."""

    @property
    def mean(self) -> Tensor:
        """Mean of ``|h_j|`` over its rows, 0 where there are none."""
        return self.size / self.rows.clamp_min(1.0)


class Activity:
    """Watches the units of a model in the forwards that train it, or in all of them.

    A second pass over a block whose activations are not kept is not counted
    (``supervised.recomputation``): experts are watched through their layer's record.
    """

    def __init__(self, model: nn.Module, always: bool = False) -> None:
        """``always``: in every forward, not only in training ones with gradients."""
        self.units: dict[str, Units] = units_of(model)
        self._always = always
        self._sums: dict[str, Tensor] = {}
        self._undo: list[Callable[[], None]] = []
        inside: dict[Any, list[tuple[str, Inside]]] = {}
        for name, units in self.units.items():
            if isinstance(units.seen, Output):
                hook = partial(self._watch_output, name, units.seen)
                self._undo.append(units.seen.module.register_forward_hook(hook).remove)
            else:
                inside.setdefault(units.seen.layer, []).append((name, units.seen))
        for layer, parts in inside.items():
            observer = partial(self._watch_layer, layer, parts)
            layer.record.observers.insert(0, observer)
            self._undo.append(partial(_take_off, layer, observer))

    def close(self) -> None:
        """Watch no more."""
        for undo in self._undo:
            undo()
        self._undo.clear()

    @property
    def sizes(self) -> list[int]:
        """Units of each place, in the order of ``units``."""
        return [units.count for units in self.units.values()]

    def take(self, total: Callable[[Tensor], Tensor] = lambda sums: sums) -> Seen:
        """What was seen since the last call, ``total`` over workers; empties."""
        parts = [
            self._sums.get(name, torch.zeros(3, units.count, dtype=torch.float64)).cpu()
            for name, units in self.units.items()
        ]
        self._sums = {}
        return Seen(*total(torch.cat(parts, 1)))

    def _watch_output(
        self, name: str, seen: Output, module: nn.Module, inputs: Any, output: Tensor
    ) -> None:
        if self._counts(module):
            with torch.no_grad():
                self._add(name, _rows(seen.made(output.detach())))

    def _watch_layer(
        self, layer: nn.Module, parts: list[tuple[str, Inside]], routed: Routed
    ) -> None:
        if not self._counts(layer):
            return
        x_TD, ids = routed.x.detach(), getattr(layer, "ids", ())
        with torch.no_grad():
            for name, seen in parts:
                read = x_TD
                if seen.expert is not None:
                    chosen_T = routed.chosen[:, ids.index(seen.expert)]
                    read = x_TD if bool(chosen_T.all()) else x_TD[chosen_T]
                if len(read):
                    self._add(name, seen.made(read))

    def _counts(self, module: nn.Module) -> bool:
        return self._always or (module.training and torch.is_grad_enabled())

    def _add(self, name: str, h_RH: Tensor) -> None:
        size = h_RH.abs().sum(0, dtype=torch.float64)
        fired = (h_RH != 0).sum(0).double()
        sums = torch.stack([size, fired, torch.full_like(size, len(h_RH))])
        known = self._sums.get(name)
        self._sums[name] = sums if known is None else known + sums


def _rows(h: Tensor) -> Tensor:
    """Activity as [R, H]: places of an image and positions of a sequence become rows."""
    if h.dim() == 4:
        h = h.movedim(1, -1)
    return h.reshape(-1, h.shape[-1])


def _take_off(layer: Any, observer: Any) -> None:
    if observer in layer.record.observers:
        layer.record.observers.remove(observer)
