"""self_contrast: z = (1 + b) z_strong - b z_weak among the plausible outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.routed import INPUTS, Two, by_hand, subject
from workers.inference.self_contrast import SelfContrast, contrasted

TOP1 = {"kind": "topk", "k": 1, "weights": "full"}


def second(r: Tensor) -> Tensor:
    return torch.zeros_like(r).scatter(1, r.topk(2, -1).indices[:, 1:], 1.0)


@pytest.mark.parametrize("selector", [{"kind": "dense"}, TOP1])
def test_the_contrast_of_the_equation(selector: Any) -> None:
    model, x, b = Two(selector), 8 * torch.randn(20, INPUTS), 0.5
    with torch.no_grad():
        for expert in model.last.experts.values():
            expert.up.weight.mul_(8.0)
    policy = SelfContrast(SelfContrast.Config(b=b))
    policy.prepare(subject(model))
    found = policy.answer(model, x)
    strong = model(x)
    weak = by_hand(model.last, by_hand(model.first, x, second).tanh(), second)
    p = strong.softmax(-1)
    near = p >= 0.1 * p.amax(-1, keepdim=True)
    z = (1 + b) * strong - b * weak
    for row in range(len(x)):
        inside = near[row].nonzero().flatten()
        steps = z[row, inside] - z[row, inside[0]]
        assert torch.allclose(found[row, inside] - found[row, inside[0]], steps, atol=1e-5)
        assert found[row].argmax() == inside[z[row, inside].argmax()]
    assert torch.allclose(found.exp().sum(-1), torch.ones(20), atol=1e-5)
    assert torch.allclose(found[~near], strong.log_softmax(-1)[~near], atol=1e-6)
    assert bool((~near).any())


def test_without_strength_it_is_the_plain_model() -> None:
    strong, weak = torch.randn(5, 4), torch.randn(5, 4)
    assert torch.allclose(contrasted(strong, weak, 0.1, 0.0), strong.log_softmax(-1), atol=1e-6)
    assert torch.allclose(contrasted(strong, weak, 1.0, 2.0), strong.log_softmax(-1), atol=1e-6)


@pytest.mark.parametrize("settings", [{"a": 0.0}, {"a": 1.5}, {"b": -1.0}, {"rank": 0}])
def test_settings_that_make_no_sense_are_refused(settings: Any) -> None:
    with pytest.raises(ValueError, match="a must be above 0"):
        SelfContrast.Config(**settings)
