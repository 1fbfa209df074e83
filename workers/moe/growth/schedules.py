"""Schedules: how many experts each layer has over depth. Pure arithmetic, no torch.

Forms from DynaMoE (arXiv 2603.01697); only the linear ones are printed there in full, the wave
is a falling trend with a one-layer ripple.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from workers.contract import InputError
from workers.moe.growth.budget import Size


class Schedule:
    """Experts per layer from the largest number: ``round(min + (max - min) f(p))``, never below 1.

    ``p`` in 0..1 is the layer's relative depth (0 for a single layer). More experts in never
    give fewer in any layer, so growth by a schedule keeps every expert.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings shared by the schedules that vary over depth."""

        kind: str
        minimum: int = 1
        """Experts of the smallest layer."""
        budget: Literal["depth", "layer"] = "depth"
        """``depth``: one expert width in all layers, such that together they cost their dense
        layers, so that parameters move with the experts; ``layer``: a width for each layer, such
        that each costs its own dense layer, so that they do not."""

        def __post_init__(self) -> None:
            if self.minimum < 1:
                raise ValueError(f"minimum must be at least 1, got {self.minimum}")

    least_layers: ClassVar[int] = 1
    """Layers without which the form cannot be told from its smallest layer."""

    def __init__(self, config: Any) -> None:
        self.minimum: int = config.minimum
        self.one_width: bool = config.budget == "depth"

    def share(self, index: int, layers: int) -> float:
        """f(p) of layer ``index``, in 0..1."""
        raise NotImplementedError

    def count(self, index: int, layers: int, experts: int) -> int:
        """Experts of layer ``index`` of ``layers`` when the largest layer has ``experts``."""
        low = min(self.minimum, experts)
        return max(1, math.floor(low + (experts - low) * self.share(index, layers) + 0.5))


def _depth(index: int, layers: int) -> float:
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
        return 1.0 - _depth(index, layers)


class Ascending(Schedule):
    """Most experts in the last layer, rising linearly with depth."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Schedule.Config):
        """Settings of the ascending schedule."""

        kind: str = "ascending"

    least_layers: ClassVar[int] = 2

    def share(self, index: int, layers: int) -> float:
        return _depth(index, layers)


class PyramidUp(Schedule):
    """Most experts in the middle layers."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Schedule.Config):
        """Settings of the pyramid_up schedule."""

        kind: str = "pyramid_up"

    least_layers: ClassVar[int] = 3

    def share(self, index: int, layers: int) -> float:
        return 1.0 - abs(2 * _depth(index, layers) - 1)


class PyramidDown(Schedule):
    """Most experts in the first and last layers."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Schedule.Config):
        """Settings of the pyramid_down schedule."""

        kind: str = "pyramid_down"

    least_layers: ClassVar[int] = 3

    def share(self, index: int, layers: int) -> float:
        return abs(2 * _depth(index, layers) - 1)


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
        return min(1.0, max(0.0, 1.0 - _depth(index, layers) + ripple))


class WaveUp(WaveDown):
    """A rising number of experts with a ripple from layer to layer."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(WaveDown.Config):
        """Settings of the wave_up schedule."""

        kind: str = "wave_up"

    def share(self, index: int, layers: int) -> float:
        return 1.0 - super().share(index, layers)


SCHEDULES: dict[str, type] = {
    "constant": Constant,
    "uniform": Uniform,
    "descending": Descending,
    "ascending": Ascending,
    "pyramid_up": PyramidUp,
    "pyramid_down": PyramidDown,
    "wave_down": WaveDown,
    "wave_up": WaveUp,
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer stands under a schedule; tells its experts from the model's number."""

    schedule: Schedule
    index: int
    layers: int
    maps: tuple[tuple[int, int], ...] = ()
    """Inputs and outputs of every layer under the schedule; empty where nobody knows them."""

    def count(self, experts: int) -> int:
        """Experts of this layer when the model is said to have ``experts``."""
        return self.schedule.count(self.index, self.layers, experts)

    def sizes(self, inputs: int, outputs: int, experts: int, copies: int = 0) -> list[Size]:
        """The layers that share one parameter budget with this one: all, or only itself.

        ``copies``: experts of this layer that the schedule does not count.
        """
        own = Size(inputs, outputs, self.count(experts) + copies)
        if not (self.schedule.one_width and self.maps):
            return [own]
        counts = [self.schedule.count(i, self.layers, experts) for i in range(self.layers)]
        sizes = [Size(*pair, count) for pair, count in zip(self.maps, counts, strict=True)]
        sizes[self.index] = own
        return sizes


def places(schedule: Schedule, maps: Sequence[tuple[int, int]]) -> list[Place]:
    """The place of each of these layers, given their inputs and outputs.

    Raises InputError where there are too few layers for the schedule's form.
    """
    if 0 < len(maps) < schedule.least_layers:
        raise InputError(
            f"schedule {type(schedule).__name__} needs at least {schedule.least_layers} routed "
            f"layers and the head has {len(maps)}: what it gives them would not depend on the "
            "experts asked for; add hidden layers, or use schedule 'constant' or 'uniform'"
        )
    return [Place(schedule, i, len(maps), tuple(maps)) for i in range(len(maps))]


EVERYWHERE = Place(Constant(Constant.Config()), 0, 1)
"""A layer under no schedule: it has as many experts as the model is said to have."""
