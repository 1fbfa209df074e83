"""Schedules whose form is a function of depth.

Forms from DynaMoE (arXiv 2603.01697); only the linear ones are printed there in full, the wave
is a falling trend with a one-layer ripple.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from workers.moe.growth.depth.base import Schedule


def depth(index: int, layers: int) -> float:
    """Relative depth p of a layer, 0..1."""
    return index / (layers - 1) if layers > 1 else 0.0


class Constant(Schedule):
    """The model's number of experts in every layer."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the constant schedule (none)."""

        kind: str = "constant"

    def __init__(self, config: Config) -> None:
        self.minimum, self.one_width = 1, False

    def share(self, index: int, layers: int) -> float:
        return 1.0


class Uniform(Schedule):
    """Midway between the smallest and the largest number in every layer: floor((max + min) / 2)."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Schedule.Config):
        """Settings of the uniform schedule."""

        kind: str = "uniform"

    def share(self, index: int, layers: int) -> float:
        return 0.5

    def count(self, index: int, layers: int, experts: int) -> int:
        return (experts + min(self.minimum, experts)) // 2


class Descending(Schedule):
    """Most experts in the first layer, falling linearly with depth."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Schedule.Config):
        """Settings of the descending schedule."""

        kind: str = "descending"

    least_layers: ClassVar[int] = 2

    def share(self, index: int, layers: int) -> float:
        return 1.0 - depth(index, layers)


class Ascending(Schedule):
    """Most experts in the last layer, rising linearly with depth."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Schedule.Config):
        """Settings of the ascending schedule."""

        kind: str = "ascending"

    least_layers: ClassVar[int] = 2

    def share(self, index: int, layers: int) -> float:
        return depth(index, layers)


class PyramidUp(Schedule):
    """Most experts in the middle layers."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Schedule.Config):
        """Settings of the pyramid_up schedule."""

        kind: str = "pyramid_up"

    least_layers: ClassVar[int] = 3

    def share(self, index: int, layers: int) -> float:
        return 1.0 - abs(2 * depth(index, layers) - 1)


class PyramidDown(Schedule):
    """Most experts in the first and last layers."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Schedule.Config):
        """Settings of the pyramid_down schedule."""

        kind: str = "pyramid_down"

    least_layers: ClassVar[int] = 3

    def share(self, index: int, layers: int) -> float:
        return abs(2 * depth(index, layers) - 1)


class WaveDown(Schedule):
    """A falling number of experts with a ripple from layer to layer."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Schedule.Config):
        """Settings of the wave_down schedule."""

        kind: str = "wave_down"
        amplitude: float = 0.25
        """Height of the ripple as a share of (max - min)."""

    least_layers: ClassVar[int] = 2

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.amplitude = config.amplitude

    def share(self, index: int, layers: int) -> float:
        ripple = self.amplitude * math.cos(math.pi * index)
        return min(1.0, max(0.0, 1.0 - depth(index, layers) + ripple))


class WaveUp(WaveDown):
    """A rising number of experts with a ripple from layer to layer."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(WaveDown.Config):
        """Settings of the wave_up schedule."""

        kind: str = "wave_up"

    def share(self, index: int, layers: int) -> float:
        return 1.0 - super().share(index, layers)
