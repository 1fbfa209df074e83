"""Fourier experts: a circular convolution, other sizes, growth, masks, half precision."""

from __future__ import annotations

import pytest
import torch

from tests.unit.workers.moe.experts.life import check_bfloat16, check_growth, check_masks, x_TD
from workers.moe.experts import FourierExpert

CONFIG = FourierExpert.Config()


def _expert(inputs: int, outputs: int) -> FourierExpert:
    torch.manual_seed(1)
    return FourierExpert(CONFIG, inputs, outputs)


@pytest.mark.parametrize("points", [24, 7])
def test_it_is_the_circular_convolution_with_the_kernel_of_its_factors(points: int) -> None:
    expert = _expert(points, points)
    torch.nn.init.normal_(expert.bias)
    factors = torch.view_as_complex(expert.weight.detach())
    kernel = torch.fft.irfft(factors, n=points)
    x = x_TD()[:, :points]
    y = torch.stack(
        [
            sum(kernel[j] * x[:, (i - j) % points] for j in range(points)) + expert.bias[i]
            for i in range(points)
        ],
        1,
    )
    torch.testing.assert_close(expert(x), y, atol=1e-5, rtol=1e-5)


def test_other_sizes_cut_or_fill_up_the_spectrum() -> None:
    for outputs in (10, 40):
        expert = _expert(24, outputs)
        with torch.no_grad():
            expert.weight.copy_(torch.tensor([1.0, 0.0]).expand_as(expert.weight))
        wave = torch.cos(2 * torch.pi * 3 * torch.arange(24) / 24)
        again = torch.cos(2 * torch.pi * 3 * torch.arange(outputs) / outputs)
        y = expert(wave)
        torch.testing.assert_close(y, again * (24 / outputs) ** 0.5, atol=1e-5, rtol=1e-5)


def test_growth_masks_and_half_precision() -> None:
    check_growth(CONFIG)
    check_masks(CONFIG)
    check_bfloat16(CONFIG)
