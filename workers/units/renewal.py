"""Units made new: incoming entries drawn afresh, outgoing ones 0."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from workers.moe.growth.optimizer_state import clear
from workers.units.side import Side, Units


@torch.no_grad()
def renew(
    chosen: Iterable[tuple[Units, Tensor]],
    generator: torch.Generator,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Make these units (int64) of each place new, where they stand.

    All incoming entries are drawn before any outgoing one becomes 0, so that no new unit is heard,
    whatever else is renewed: the model then answers as it would without them. The optimizer
    forgets what it keeps for each of the entries.
    """
    pairs = [(units, which) for units, which in chosen if len(which)]
    for units, which in pairs:
        for side in units.incoming:
            places = side.of(which).to(side.parameter.device)
            shape = list(side.parameter.shape)
            shape[side.dim] = len(places)
            drawn = side.draw(torch.Size(shape), generator)
            side.parameter.index_copy_(side.dim, places, drawn.to(side.parameter))
            _forget(side, places, optimizer)
    for units, which in pairs:
        for side in units.outgoing:
            places = side.of(which).to(side.parameter.device)
            side.parameter.index_fill_(side.dim, places, 0.0)
            _forget(side, places, optimizer)


def _forget(side: Side, places: Tensor, optimizer: torch.optim.Optimizer | None) -> None:
    if optimizer is not None and side.parameter in optimizer.state:
        clear(optimizer.state[side.parameter], side.parameter, side.dim, places)
