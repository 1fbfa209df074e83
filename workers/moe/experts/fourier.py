"""The Fourier expert: one complex factor for each frequency of its input. Knows nothing of routing.

Letters: S rows, D inputs, O outputs, F frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workers.moe.experts.base import Expert
from workers.moe.selection import exact


class FourierExpert(Expert):
    """y = F^-1(W . F(x)) + b, a complex W for each frequency (experts of MoHETS, arXiv 2601.21866).

    F is the real discrete Fourier transform along the features of a row (a router hands out rows,
    not sequences), so with as many outputs as inputs the expert is the circular convolution of a
    row with the kernel F^-1(W). With other sizes the spectrum is cut or filled up with zeros
    to what O points can hold. Transforms are taken in float32. ``weight`` [F, 2] holds real and
    imaginary parts, F = min(D, O) / 2 + 1 rounded down.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of a Fourier expert (none)."""

        kind: str = "fourier"

    def __init__(self, config: Config, inputs: int, outputs: int, width: int = 0) -> None:
        super().__init__(config, inputs, outputs, width)
        self.outputs = outputs
        frequencies = min(inputs, outputs) // 2 + 1
        # unit mean square: the row keeps its size
        self.weight = nn.Parameter(torch.randn(frequencies, 2) / 2**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x_SD: Tensor) -> Tensor:
        """[..., D] -> [..., O]."""
        factors_F = torch.view_as_complex(exact(self.weight))
        spectrum_SF = torch.fft.rfft(exact(x_SD), norm="ortho")[..., : len(factors_F)]
        y_SO = torch.fft.irfft(spectrum_SF * factors_F, n=self.outputs, norm="ortho")
        return y_SO.to(x_SD.dtype) + self.bias

    @torch.no_grad()
    def zero_output(self) -> None:
        """Set every factor to 0."""
        self.weight.zero_()
        self.bias.zero_()
