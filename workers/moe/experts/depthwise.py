"""The depthwise expert: a convolution of each channel with a kernel of its own.

Letters: B sequences, S tokens of one, N rows, C channels, D inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.contract import InputError, LaneSettings
from workers.moe.experts.base import Expert
from workers.tables import Problem


class DepthwiseExpert(Expert):
    """Depthwise convolution, as the always-on expert of MoHETS (arXiv 2601.21866) is one.

    ``over = "sequence"``: along the tokens of a sequence, each feature a channel, reaching back
    only (y_t sees x_t, x_{t-1}, ...), for shared experts of models of sequences. ``"features"``:
    along the features of a row, read as ``channels`` signals of D / channels points, zeros beyond
    the ends. Where there are other outputs than inputs, a pointwise map follows (depthwise
    separable convolution).
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of a depthwise convolution."""

        kind: str = "depthwise"
        kernel: int = 3
        """Points that a kernel spans; odd over features."""
        over: Literal["features", "sequence"] = "features"
        """The axis along which it convolves."""
        channels: int = 1
        """Signals in a row, which lie one behind the other; over features only."""

        def __post_init__(self) -> None:
            if self.kernel < 1 or self.channels < 1:
                raise ValueError(
                    f"kernel and channels must be at least 1, got {self.kernel}, {self.channels}"
                )
            if self.over == "features" and self.kernel % 2 == 0:
                raise ValueError(f"kernel must be odd over features, got {self.kernel}")
            if self.over == "sequence" and self.channels != 1:
                raise ValueError("channels must be left out over a sequence: features are channels")

        @property
        def reads_sequences(self) -> bool:
            """See ``workers.moe.experts.base.sequences``."""
            return self.over == "sequence"

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Samples and steps by themselves are no sequence."""
            if self.over == "sequence" and not lane.sequential:
                allowed = "must be 'features' where inputs are no sequences, or the lane acts"
                return [Problem("over", f"got {self.over!r}", allowed)]
            return []

    def __init__(self, config: Config, inputs: int, outputs: int, width: int = 0) -> None:
        super().__init__(config, inputs, outputs, width)
        self.reads_sequences = config.reads_sequences
        self.channels = inputs if self.reads_sequences else config.channels
        if inputs % self.channels:
            raise InputError(
                f"depthwise expert: {inputs} features are no {self.channels} signals of equal "
                "length; channels must divide them"
            )
        bound = 1 / math.sqrt(config.kernel)  # as torch draws a convolution
        drawn = torch.empty(self.channels, 1, config.kernel).uniform_(-bound, bound)
        self.weight = nn.Parameter(drawn)
        self.bias = nn.Parameter(torch.empty(self.channels).uniform_(-bound, bound))
        same = inputs == outputs
        self.point = nn.Identity() if same else nn.Linear(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, outputs] over a sequence, else [..., D] -> [..., outputs]."""
        y: Tensor = self.point(self._along_tokens(x) if self.reads_sequences else self._within(x))
        return y

    def _along_tokens(self, x_BSD: Tensor) -> Tensor:
        padded_BDS = functional.pad(x_BSD.transpose(1, 2), (self.weight.shape[2] - 1, 0))
        y_BDS = functional.conv1d(padded_BDS, self.weight, self.bias, groups=self.channels)
        return y_BDS.transpose(1, 2)

    def _within(self, x: Tensor) -> Tensor:
        signals_NCP = x.reshape(-1, self.channels, x.shape[-1] // self.channels)
        y_NCP = functional.conv1d(
            signals_NCP,
            self.weight,
            self.bias,
            padding=self.weight.shape[2] // 2,
            groups=self.channels,
        )
        return y_NCP.reshape(x.shape)

    @torch.no_grad()
    def zero_output(self) -> None:
        """Set kernels and biases to 0."""
        self.weight.zero_()
        self.bias.zero_()
