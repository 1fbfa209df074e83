"""Depthwise convolutions: over features and over sequences, as routed and as shared experts."""

from __future__ import annotations

import pytest
import torch

from tests.unit.workers.moe.experts.life import (
    check_bfloat16,
    check_growth,
    check_masks,
    layer_of,
    x_TD,
)
from workers.contract import InputError
from workers.moe.experts import DepthwiseExpert, FourierExpert
from workers.moe.selectors import TopK

OVER_FEATURES = DepthwiseExpert.Config(channels=3, kernel=5)
OVER_SEQUENCE = DepthwiseExpert.Config(over="sequence")


def _expert(config: DepthwiseExpert.Config) -> DepthwiseExpert:
    torch.manual_seed(1)
    return DepthwiseExpert(config, 24, 24)


def test_over_features_each_signal_has_a_kernel_of_its_own() -> None:
    expert, x = _expert(OVER_FEATURES), x_TD()
    expected = torch.zeros(20, 24)
    for place in range(24):
        channel, point = divmod(place, 8)
        for tap in range(5):
            source = point + tap - 2
            if 0 <= source < 8:
                expected[:, place] += expert.weight[channel, 0, tap] * x[:, channel * 8 + source]
        expected[:, place] += expert.bias[channel]
    torch.testing.assert_close(expert(x), expected)


def test_over_a_sequence_each_feature_sees_its_own_past_only() -> None:
    expert, x_BSD = _expert(OVER_SEQUENCE), x_TD().reshape(4, 5, 24)
    expected = torch.zeros(4, 5, 24)
    for step in range(5):
        for back in range(min(3, step + 1)):
            expected[:, step] += expert.weight[:, 0, 2 - back] * x_BSD[:, step - back]
    torch.testing.assert_close(expert(x_BSD), expected + expert.bias)


def test_shared_over_sequences_beside_routed_fourier_experts() -> None:
    layer = layer_of(
        FourierExpert.Config(), selector=TopK.Config(k=1, weights="full"), shared=1,
        shared_experts=(OVER_SEQUENCE,),
    )  # fmt: skip
    x_BSD = x_TD().reshape(4, 5, 24)
    y = layer(x_BSD)
    p_TE = layer.router(x_TD(), layer._begin(x_TD()).context).softmax(-1)
    weight, best = p_TE.max(-1)
    routed = torch.stack([layer.expert(int(e))(row) for e, row in zip(best, x_TD(), strict=True)])
    expected = (weight[:, None] * routed).reshape(4, 5, 24) + layer.shared[0](x_BSD)
    torch.testing.assert_close(y, expected)
    layer.zero_grad()
    y.square().sum().backward()
    assert all(p.grad is not None for p in layer.shared.parameters())


def test_a_sequence_is_refused_where_there_is_none() -> None:
    with pytest.raises(ValueError, match="shared_experts"):
        layer_of(OVER_SEQUENCE)
    layer = layer_of(FourierExpert.Config(), shared=1, shared_experts=(OVER_SEQUENCE,))
    with pytest.raises(InputError, match="single tokens"):
        layer(x_TD())
    with pytest.raises(ValueError, match="odd"):
        DepthwiseExpert.Config(kernel=2)
    with pytest.raises(InputError, match="no 5 signals"):
        layer_of(DepthwiseExpert.Config(channels=5))


def test_growth_masks_and_half_precision() -> None:
    check_growth(OVER_FEATURES)
    check_masks(OVER_FEATURES)
    check_bfloat16(OVER_FEATURES)
    check_growth(FourierExpert.Config(), shared=1, shared_experts=(OVER_FEATURES,))
