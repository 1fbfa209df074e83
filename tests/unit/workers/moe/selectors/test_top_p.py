"""Top-p routing: the smallest prefix above P, probabilities as they are, costs bounded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from workers.moe.selectors import TopP


def _logits(tokens: int, experts: int, seed: int = 0) -> Tensor:
    return torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed))


def _selector(**settings: object) -> TopP:
    return TopP(TopP.Config(**settings))


def _prefix(p_E: Tensor, level: float) -> list[int]:
    """min{k : sum of the k largest > P}, one expert at a time."""
    chosen: list[int] = []
    total = 0.0
    for expert in p_E.argsort(descending=True, stable=True).tolist():
        chosen.append(expert)
        total += float(p_E[expert])
        if total > level:
            break
    return sorted(chosen)


@pytest.mark.parametrize("level", [0.0, 0.4, 0.75, 1.0])
def test_smallest_prefix(level: float) -> None:
    logits_TE = _logits(300, 6)
    selection = _selector(p=level).select(logits_TE, None, False)
    p_TE = torch.softmax(logits_TE.double(), 1)
    for row_E, chosen_E in zip(p_TE, selection.chosen_TE, strict=True):
        assert chosen_E.nonzero().flatten().tolist() == _prefix(row_E, level)
    wanted_TE = torch.where(selection.chosen_TE, p_TE, 0.0).float()
    torch.testing.assert_close(selection.weights_TE, wanted_TE)
    if level == 0.4:
        assert len(selection.chosen_TE.sum(1).unique()) > 1


def test_the_sum_must_exceed_the_level() -> None:
    """Four equal experts reach 0.5 with two of them, and exceed it with three."""
    selection = _selector(p=0.5).select(torch.zeros(1, 4), None, False)
    assert selection.chosen_TE.tolist() == [[True, True, True, False]]
    torch.testing.assert_close(selection.weights_TE, torch.tensor([[0.25, 0.25, 0.25, 0.0]]))


def test_renormalised() -> None:
    logits_TE = _logits(50, 5)
    printed, whole = (
        _selector(weights=weights).select(logits_TE, None, False) for weights in ("full", "chosen")
    )
    assert torch.equal(printed.chosen_TE, whole.chosen_TE)
    sums_T1 = printed.weights_TE.sum(1, keepdim=True)
    assert bool((sums_T1 > 0.4).all())
    torch.testing.assert_close(whole.weights_TE, printed.weights_TE / sums_T1)


def test_gradient_is_that_of_the_softmax() -> None:
    logits_TE = _logits(20, 5).requires_grad_()
    selection = _selector(temperature=0.5).select(logits_TE, None, False)
    factor_TE = _logits(20, 5, seed=2)
    (found,) = torch.autograd.grad((selection.weights_TE * factor_TE).sum(), logits_TE)
    p_TE = torch.softmax(logits_TE / 0.5, 1)
    masked_TE = torch.where(selection.chosen_TE, factor_TE, 0.0)
    (wanted,) = torch.autograd.grad((p_TE * masked_TE).sum(), logits_TE)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("level", [0.0, 0.4, 0.5, 0.9, 1.0])
def test_no_token_needs_more_than_planned(level: float) -> None:
    selector = _selector(p=level)
    for experts in (1, 2, 4, 5, 8):
        most = selector.active(experts)
        flat = selector.select(torch.zeros(1, experts), None, False)
        assert int(flat.chosen_TE.sum()) == most
        drawn = selector.select(0.1 * _logits(200, experts), None, False)
        assert int(drawn.chosen_TE.sum(1).max()) <= most


def test_slots_are_only_as_many_as_needed() -> None:
    logits_TE = 3.0 * _logits(100, 32)
    slots = _selector().select(logits_TE, None, False).as_slots()
    assert slots.selected_TK.shape[1] == int((slots.selected_TK >= 0).sum(1).max()) < 32


def test_halving_a_copied_expert_keeps_the_mixture() -> None:
    """Parent and copy, both shifted, have half of the parent's probability each."""
    selector = _selector(temperature=0.7)
    logits_TE = _logits(30, 4)
    shift = selector.logit_shift(2.0)
    copied_TE = torch.cat([logits_TE, logits_TE[:, :1]], 1)
    copied_TE[:, [0, 4]] -= shift
    before_TE, after_TE = (selector.probabilities(x, None) for x in (logits_TE, copied_TE))
    torch.testing.assert_close(after_TE[:, 0], before_TE[:, 0] / 2)
    torch.testing.assert_close(after_TE[:, 4], before_TE[:, 0] / 2)
    torch.testing.assert_close(after_TE[:, 1:4], before_TE[:, 1:])


@pytest.mark.parametrize("wrong", [{"p": 1.2}, {"p": -0.1}, {"temperature": -1.0}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        TopP.Config(**wrong)
