"""What tests of schedules share."""

from __future__ import annotations

from typing import Any

from workers.moe.growth.depth.base import every
from workers.moe.growth.schedules import SCHEDULES, places


def counts(
    kind: str,
    form: str,
    experts: int,
    layers: int,
    maps: Any = None,
    active: Any = every,
    **settings: Any,
) -> list[int]:
    """Experts of each layer under a schedule that keeps another one's form."""
    config = SCHEDULES[kind].Config(schedule=SCHEDULES[form].Config(), **settings)
    standing = places(SCHEDULES[kind](config), maps or [(16, 16)] * layers, active)
    return [place.count(experts) for place in standing]


def never_lose(kind: str, form: str, **settings: Any) -> None:
    """Assert that more experts never give fewer in any layer."""
    grown = [counts(kind, form, experts, 4, **settings) for experts in range(1, 24)]
    for of_layer in zip(*grown, strict=True):
        assert list(of_layer) == sorted(of_layer)
