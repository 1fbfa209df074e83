"""Backbones: samples -> features. Dense, never grown."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from workers.contract import InputError, LaneSettings
from workers.moe.perceptron import Activation, Between, Norm, check_hidden
from workers.moe.seeding import seeded
from workers.tables import Problem
from workers.units.hidden import Hidden

InputShape = tuple[int, ...]
"""Shape of one sample; (channels, height, width) of an image."""


class MLPBackbone(nn.Module):
    """Flattens the input; hidden layers with ReLU after each, if any."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the flattening backbone."""

        kind: str = "mlp"
        hidden: tuple[int, ...] = ()
        """Widths of its layers; empty = flatten only."""
        norm: Norm = "none"
        """``layer``: layer norm before each activation (arXiv 1607.06450)."""
        activation: Activation = "relu"
        """``crelu``: concatenated ReLU, of which the next layer reads two numbers a unit."""

        def __post_init__(self) -> None:
            check_hidden(self.hidden)

    def __init__(self, config: Config, input_shape: InputShape, seed: int) -> None:
        super().__init__()
        self.between = between = Between(config.activation, config.norm)
        sizes = [math.prod(input_shape), *config.hidden]
        self.outputs = sizes[-1] * (between.copies if config.hidden else 1)
        with seeded(seed):
            self.layers = nn.ModuleList(nn.Linear(*ends) for ends in between.maps(sizes))
        self.norms = nn.ModuleList(between.norms(config.hidden))
        self.activation = between.function()

    def forward(self, x: Tensor) -> Tensor:
        """Numbers [B, ...] -> [B, outputs]; integers are taken as they are."""
        x = x.flatten(1)
        if not x.is_floating_point():
            x = x.float()
        for place, layer in enumerate(self.layers):
            x = layer(x)
            x = self.activation(self.norms[place](x) if self.norms else x)
        return x

    def hidden_units(self) -> dict[str, Hidden]:
        """Outputs of each layer but the last, behind the activation."""
        return {
            f"layers.{place}": replace(self._units(place), read_by=(self.layers[place + 1],))
            for place in range(len(self.layers) - 1)
        }

    @property
    def given(self) -> Hidden | None:
        """The units that it gives, with nothing yet that reads them."""
        return self._units(len(self.layers) - 1) if self.layers else None

    def _units(self, place: int) -> Hidden:
        norm: Any = self.norms[place] if self.norms else None
        activation = self.between.activation
        return Hidden(made_by=self.layers[place], read_by=(), activation=activation, norm=norm)


class NatureCNN(nn.Module):
    """Three convolutions of the DQN paper, padded (kernels 8/4/3, strides 4/2/1, padding 3/2/1)."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the convolutional backbone."""

        kind: str = "nature_cnn"
        channels: tuple[int, int, int] = (32, 64, 64)
        """Output channels of the three convolutions."""

        def __post_init__(self) -> None:
            check_hidden(self.channels)

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """It reads images only."""
            return _no_image(lane.input_shape)

    _FORM = ((8, 4, 3), (4, 2, 2), (3, 1, 1))
    """Kernel, stride, padding of each convolution."""

    def __init__(self, config: Config, input_shape: InputShape, seed: int) -> None:
        super().__init__()
        for problem in _no_image(input_shape):
            raise InputError(f"backbone.{problem}")
        channels, *size = input_shape
        layers: list[nn.Module] = []
        with seeded(seed):
            for outputs, (kernel, stride, padding) in zip(config.channels, self._FORM, strict=True):
                layers += [nn.Conv2d(channels, outputs, kernel, stride, padding), nn.ReLU()]
                size = [(side + 2 * padding - kernel) // stride + 1 for side in size]
                channels = outputs
        self.layers = nn.Sequential(*layers)
        self.outputs = channels * size[0] * size[1]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, outputs]."""
        y: Tensor = self.layers(x).flatten(1)
        return y

    def hidden_units(self) -> dict[str, Hidden]:
        """Filters of each convolution but the last, behind the activation."""
        return {
            f"layers.{2 * place}": Hidden(made_by=one, read_by=(other,))
            for place, (one, other) in enumerate(pairwise(list(self.layers)[::2]))
        }

    @property
    def given(self) -> Hidden:
        """The filters that it gives, each a whole image, with nothing yet that reads them."""
        return Hidden(made_by=self.layers[-2], read_by=())


def _no_image(input_shape: InputShape) -> list[Problem]:
    """What keeps convolutions from reading inputs of this shape."""
    if len(input_shape) == 3 and min(input_shape[1:]) >= 2:
        return []
    found = f"nature_cnn with inputs of shape {tuple(input_shape)}"
    allowed = "it reads images [channels, height, width] of at least 2 x 2 pixels: use backbone mlp"
    return [Problem("kind", found, allowed)]


BACKBONES: dict[str, type] = {"mlp": MLPBackbone, "nature_cnn": NatureCNN}
