"""A module drawn anew in the architecture that another one has grown to."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from workers.contract import derive_seed
from workers.moe.growth.growable import Growable, Growth, arch, ensure_arch, growables
from workers.moe.growth.initialisers import Random
from workers.moe.seeding import seeded

Drawn = TypeVar("Drawn", bound=nn.Module)


def like_grown(drawn: Drawn, model: nn.Module, seed: int) -> Drawn:
    """``drawn``, as it was made, grown to what ``model`` is; what is added is drawn by ``seed``.

    Experts are born as growth lets them be, then it is given the architecture of ``model``:
    removed experts go, narrowed ones are drawn anew as narrow.
    """
    wanted = growables(model)
    for name, part in growables(drawn).items():
        _grow(part, wanted[name], derive_seed(seed, "growth", name))
    with seeded(derive_seed(seed, "architecture")):
        ensure_arch(drawn, arch(model))
    return drawn


def _grow(part: Growable, wanted: Growable, seed: int) -> None:
    """Until it has at least as many experts as were ever born in ``wanted``."""
    born = wanted.layer_shape().born
    experts = part.live
    while part.target(experts) < born:
        experts += 1
    if part.target(experts) > part.live:
        rule = Random(Random.Config())
        part.grow(Growth(experts=experts, initialiser=rule, seed=seed, stage=None))
