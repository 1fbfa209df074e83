"""Units as values: the entries of parameters that belong to each one, and where its activity shows.

Letters: H units, K entries of one unit along a dimension, T tokens, R rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Draw = Callable[[torch.Size, torch.Generator], Tensor]
"""Shape of new entries, the generator -> their values."""


def uniform(bound: float, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Between ``-bound`` and ``bound``."""
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def constant(value: float, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Everywhere the same."""
    return torch.full(shape, value)


def direction(gain: float, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Rows of this length in random directions, as those of an orthogonal draw with this gain."""
    drawn = torch.empty(shape).normal_(generator=generator)
    return gain * functional.normalize(drawn.flatten(1), dim=1).view(shape)


def as_linear(weight: Tensor) -> Draw:
    """How torch draws a linear map or a convolution with this weight, and its bias:
    ``U(-1/sqrt(fan_in), 1/sqrt(fan_in))``."""
    return partial(uniform, 1 / math.sqrt(math.prod(weight.shape[1:])))


class Side(NamedTuple):
    """Entries of one parameter that belong to H units: slices along one dimension."""

    parameter: nn.Parameter
    dim: int
    places_HK: Tensor
    """Where the slices of each unit are, int64."""
    draw: Draw
    """How the entries of a new unit are drawn; those that read it are 0."""

    def of(self, units: Tensor) -> Tensor:
        """Places of these units (int64), int64 [units * K]."""
        return self.places_HK[units].flatten()

    @torch.no_grad()
    def magnitudes(self) -> Tensor:
        """Sum of the absolute entries of each unit, float64 [H]."""
        others = [dim for dim in range(self.parameter.dim()) if dim != self.dim]
        size = self.parameter.abs().double()
        size = size.sum(others) if others else size
        return size[self.places_HK].sum(1)


def single(count: int) -> Tensor:
    """One entry for each unit, in order, [H, 1]."""
    return torch.arange(count).unsqueeze(1)


def strided(count: int, copies: int) -> Tensor:
    """Entries ``j, j + H, j + 2 H, ...`` of unit j, [H, copies]."""
    return torch.arange(count).unsqueeze(1) + count * torch.arange(copies)


def blocks(count: int, size: int) -> Tensor:
    """``size`` entries of each unit, one behind the other, [H, size]."""
    return torch.arange(count * size).view(count, size)


ACTIVITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "crelu": torch.abs,  # relu(z) and relu(-z) are one unit, of which one half is z's size
    "identity": lambda x: x,
}
"""What a unit makes of what it reads, by the name of its activation."""
CAN_BE_SILENT = frozenset({"relu"})
"""Activations that are exactly 0 for a whole range of inputs."""


class Output(NamedTuple):
    """Units seen in a module's output: [..., H], or [B, H, height, width] of an image."""

    module: nn.Module
    made: Callable[[Tensor], Tensor]
    """The module's output -> activity of the units, of the same shape."""


class Inside(NamedTuple):
    """Units seen inside an expert of a routed layer, which is given what the expert reads."""

    layer: nn.Module
    expert: int | None
    """Id of the expert; None = it is shared, and runs for every token."""
    made: Callable[[Tensor], Tensor]
    """Tokens [T, D] -> activity of the units [T, H]."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Units:
    """H units of one place in a model."""

    incoming: tuple[Side, ...]
    """What the units read by, biases included."""
    outgoing: tuple[Side, ...]
    """What reads the units."""
    seen: Output | Inside
    can_be_silent: bool
    """Whether a unit's activity is exactly 0 for a range of inputs."""

    @property
    def count(self) -> int:
        """H."""
        return len(self.incoming[0].places_HK)

    @property
    def sides(self) -> tuple[Side, ...]:
        """Incoming and outgoing ones."""
        return (*self.incoming, *self.outgoing)

    @property
    def learnt(self) -> bool:
        """Whether all that they are made of, and all that reads them, has a gradient."""
        return all(side.parameter.grad is not None for side in self.sides)

    @property
    def learns(self) -> bool:
        """Whether nothing of it is frozen."""
        return all(side.parameter.requires_grad for side in self.sides)

    def outgoing_size(self) -> Tensor:
        """``sum_k |w_jk|`` over the outgoing weights of each unit, float64 [H]."""
        return torch.stack([side.magnitudes() for side in self.outgoing]).sum(0)
