"""What methods keep about parameters, as edits change them. Knows no method."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from workers.edits import Change

Begin = Callable[[nn.Parameter], Tensor]
"""What is kept about a parameter that is new."""


def followed(
    kept: Mapping[str, Tensor], model: nn.Module, change: Change | None, begin: Begin
) -> dict[str, Tensor]:
    """What is kept about each parameter after an edit, by name; ``kept``: before it.

    Old parameters keep theirs bit for bit, narrowed ones the entries that are left, those that
    are gone lose it; a new one, and one of which the edit drew all entries anew, begins.
    ``change`` None: nothing but additions and removals.
    """
    narrowed = {} if change is None else change.narrowed
    cleared = {} if change is None else change.cleared
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        anew = name in cleared and cleared[name] is None
        if name not in kept or anew:
            found[name] = begin(parameter)
        elif name in narrowed:
            _, dim, indices = narrowed[name]
            found[name] = kept[name].index_select(dim, indices.to(kept[name].device))
        else:
            found[name] = kept[name]
    return found
