"""Percentile routing by token: the rule as printed, and that its number of experts is constant."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from workers.moe.selectors import PercentileToken, TopK


def _logits(tokens: int, experts: int, seed: int = 0) -> Tensor:
    return torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed))


def _selector(**settings: float) -> PercentileToken:
    return PercentileToken(PercentileToken.Config(**settings))


@pytest.mark.parametrize(("experts", "k"), [(8, 3), (6, 2), (5, 2), (4, 1), (3, 1)])
def test_the_number_of_experts_is_the_same_for_every_token(experts: int, k: int) -> None:
    selector = _selector()
    assert selector.active(experts) == k
    for training in (True, False):
        selection = selector.select(_logits(500, experts), None, training)
        assert selection.chosen_TE.sum(1).unique().tolist() == [k]


@pytest.mark.parametrize("level", [0.0, 0.35, 0.5, 0.9, 1.0])
def test_the_printed_rule(level: float) -> None:
    """Threshold and softmax computed by torch.quantile and by hand."""
    logits_TE = _logits(200, 7)
    selection = _selector(level=level).select(logits_TE, None, False)
    least_T1 = logits_TE.double().quantile(level, dim=1, keepdim=True)
    wanted_TE = logits_TE.double() >= least_T1 - 1e-9
    assert torch.equal(selection.chosen_TE, wanted_TE)
    scaled_TE = (logits_TE / 0.5).masked_fill(~wanted_TE, float("-inf"))
    torch.testing.assert_close(selection.weights_TE, torch.softmax(scaled_TE, 1))


def test_it_is_topk_under_another_name() -> None:
    logits_TE = _logits(100, 8).requires_grad_()
    found = []
    for selector in (_selector(), TopK(TopK.Config(k=3, temperature=0.5, noise=0.1))):
        torch.manual_seed(5)
        slots = selector.select(logits_TE, None, True).as_slots()
        (gradient,) = torch.autograd.grad(slots.weights_TK.square().sum(), logits_TE)
        found.append((slots.selected_TK, slots.weights_TK.detach(), slots.counts_E, gradient))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_experts_that_tie_at_the_threshold_are_all_used() -> None:
    logits_TE = torch.tensor([[1.0, 0.0, 1.0, 1.0, 1.0], [5.0, 4.0, 3.0, 2.0, 1.0]])
    chosen_TE = _selector().select(logits_TE, None, False).chosen_TE
    assert chosen_TE.sum(1).tolist() == [4, 2]


def test_only_allowed_experts_count() -> None:
    logits_TE = torch.tensor([[9.0, 4.0, 3.0, 2.0, 1.0, 8.0, 7.0]])
    allowed_TE = torch.tensor([[False, True, True, True, True, False, True]])
    chosen_TE = _selector().select(logits_TE, allowed_TE, False).chosen_TE
    assert chosen_TE.nonzero()[:, 1].tolist() == [1, 6], "2 of the 5 that are allowed"


def test_noise_in_training_only() -> None:
    logits_TE = _logits(300, 8)
    selector = _selector(noise=1.0)
    quiet, loud = (selector.select(logits_TE, None, training) for training in (False, True))
    assert not torch.equal(quiet.chosen_TE, loud.chosen_TE)
    assert torch.equal(
        quiet.chosen_TE, _selector(noise=0.0).select(logits_TE, None, True).chosen_TE
    )


@pytest.mark.parametrize("wrong", [{"level": 1.5}, {"temperature": 0.0}, {"noise": -0.1}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        PercentileToken.Config(**wrong)
