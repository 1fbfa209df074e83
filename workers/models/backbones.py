"""Backbones: samples -> features. Dense, never grown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from workers.contract import InputError, LaneSettings
from workers.moe.perceptron import check_hidden
from workers.moe.seeding import seeded
from workers.tables import Problem

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

        def __post_init__(self) -> None:
            check_hidden(self.hidden)

    def __init__(self, config: Config, input_shape: InputShape, seed: int) -> None:
        super().__init__()
        sizes = [math.prod(input_shape), *config.hidden]
        self.outputs = sizes[-1]
        with seeded(seed):
            self.layers = nn.ModuleList(
                nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(sizes)
            )
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Numbers [B, ...] -> [B, outputs]; integers are taken as they are."""
        x = x.flatten(1)
        if not x.is_floating_point():
            x = x.float()
        for layer in self.layers:
            x = self.activation(layer(x))
        return x


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


def _no_image(input_shape: InputShape) -> list[Problem]:
    """What keeps convolutions from reading inputs of this shape."""
    if len(input_shape) == 3 and min(input_shape[1:]) >= 2:
        return []
    found = f"nature_cnn with inputs of shape {tuple(input_shape)}"
    allowed = "it reads images [channels, height, width] of at least 2 x 2 pixels: use backbone mlp"
    return [Problem("kind", found, allowed)]


BACKBONES: dict[str, type] = {"mlp": MLPBackbone, "nature_cnn": NatureCNN}
