"""Whether the nodes can ever hold a trial: Tune would wait for room without a word.

Pure; knows no Ray beside its names of resources.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from workers.contract import InputError

Amounts = Mapping[str, float]
"""So much of each resource, by Ray's names."""
ROUNDING = 1e-9
"""Of amounts that were added up: 0.1 ten times is a core."""


def check_placeable(bundles: Sequence[Amounts], nodes: Sequence[Amounts]) -> None:
    """Refuse a trial whose bundles do not all fit on the nodes even if these were empty.

    Raises InputError where it is certain: some bundle finds too few places, or all bundles ask
    for more of a resource than there is.
    """
    lines = [*_crowded(bundles, nodes), *_short(bundles, nodes)]
    if lines:
        have = "; ".join(_text({name: n.get(name, 0.0) for name in _names(bundles)}) for n in nodes)
        raise InputError(
            "a trial can never be placed, the nodes are not large enough for what it reserves:\n"
            + "\n".join(f"  {line}" for line in lines)
            + f"\nthe nodes have: {have or 'nothing, there is none'}\nlower the lane's workers, "
            "resources, training.num_env_runners or training.num_learners in the stream file "
            "(--base), or give a larger cluster with --address"
        )


def _crowded(bundles: Sequence[Amounts], nodes: Sequence[Amounts]) -> list[str]:
    """Bundles of which the nodes hold fewer than there are."""
    kinds = Counter(tuple(sorted(bundle.items())) for bundle in bundles)
    return [
        f"{count} x {_text(dict(kind))}: there is room for {places:g}"
        for kind, count in kinds.items()
        if (places := sum(_places(dict(kind), node) for node in nodes)) < count
    ]


def _short(bundles: Sequence[Amounts], nodes: Sequence[Amounts]) -> list[str]:
    """Resources of which all bundles together ask for more than there is."""
    found = []
    for name in _names(bundles):
        needed = sum(bundle.get(name, 0.0) for bundle in bundles)
        there = sum(node.get(name, 0.0) for node in nodes)
        if needed > there + ROUNDING:
            found.append(f"{name} = {needed:g} for all its processes together: {there:g} there")
    return found


def _places(bundle: Amounts, node: Amounts) -> float:
    """How many such bundles an empty node holds."""
    wanted = {name: amount for name, amount in bundle.items() if amount > 0}
    rooms = ((node.get(name, 0.0) / amount + ROUNDING) // 1 for name, amount in wanted.items())
    return min(rooms, default=math.inf)


def _names(bundles: Sequence[Amounts]) -> list[str]:
    return sorted({name for bundle in bundles for name in bundle})


def _text(amounts: Amounts) -> str:
    return ", ".join(f"{name} = {amount:g}" for name, amount in sorted(amounts.items()))
