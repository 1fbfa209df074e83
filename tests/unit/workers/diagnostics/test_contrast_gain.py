"""contrast_gain: score of the contrast less that of the plain answers."""

from __future__ import annotations

import pytest
import torch

from tests.probes import accuracy, figures, probe
from tests.routed import INPUTS, Two, subject
from workers.inference.self_contrast import SelfContrast


def test_the_gain_is_the_difference_of_the_scores() -> None:
    torch.manual_seed(0)
    model, x, y = Two({"kind": "topk", "k": 2}), torch.randn(60, INPUTS), torch.randint(0, 3, (60,))
    policy = SelfContrast(SelfContrast.Config(b=3.0))
    policy.prepare(subject(model))
    expected = accuracy(policy.answer(model, x), y).mean() - accuracy(model(x), y).mean()
    found = figures("contrast_gain", probe(model, x, y, [0] * 60), b=3.0)
    assert found == {"": pytest.approx(float(expected), abs=1e-7)}
    assert found[""] != 0
    still = figures("contrast_gain", probe(model, x, y, [0] * 60), b=0.0)
    assert still == {"": 0.0}


def test_answers_that_are_values_have_none() -> None:
    model = Two({"kind": "dense"})
    seen = probe(model, torch.randn(4, INPUTS), torch.randn(4, 3), [0] * 4)
    assert figures("contrast_gain", seen) == {}
    with pytest.raises(ValueError, match="a must be above 0"):
        figures("contrast_gain", seen, a=0.0)
