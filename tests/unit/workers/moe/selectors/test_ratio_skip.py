"""Ratio skip: what weighs little beside the first is dropped, the rest keeps its sum."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from workers.moe.selectors import SELECTORS, TopK

SKIP = SELECTORS["ratio_skip"]


def _skip(**settings):
    return SKIP(SKIP.Config(inner=TopK.Config(k=3), **settings))


def _select(skip, logits_TE, training=False, allowed_TE=None):
    return skip(torch.zeros(len(logits_TE), 1), logits_TE, allowed_TE, training)


def test_experts_below_the_ratio_are_dropped_and_the_rest_is_scaled() -> None:
    torch.manual_seed(1)
    logits_TE, mu = torch.randn(100, 5), 0.4
    found = _select(_skip(mu=mu), logits_TE)
    counts = set()
    for logits_E, weights_E in zip(logits_TE, found.weights_TE, strict=True):
        best = logits_E.topk(3)
        g = torch.softmax(best.values, 0)
        kept = g / g[0] >= mu
        wanted = torch.zeros(5)
        wanted[best.indices[kept]] = g[kept] / g[kept].sum()
        torch.testing.assert_close(weights_E, wanted)
        counts.add(int(kept.sum()))
    assert counts == {1, 2, 3}
    assert torch.equal(found.chosen_TE, found.weights_TE > 0)


def test_training_skips_only_where_it_is_told_to() -> None:
    logits_TE = torch.tensor([[4.0, 0.0, -1.0, -2.0]])
    assert int(_select(_skip(mu=0.5), logits_TE, True).chosen_TE.sum()) == 3
    assert int(_select(_skip(mu=0.5, in_training=True), logits_TE, True).chosen_TE.sum()) == 1


def test_the_median_is_measured_over_training_and_travels_with_the_model() -> None:
    torch.manual_seed(2)
    logits_TE, skip = torch.randn(101, 5), _skip(momentum=0.5)
    whole = _select(skip, logits_TE)
    assert int(whole.chosen_TE.sum()) == 303, "nothing is skipped before anything is measured"
    _select(skip, logits_TE, True)
    best_TK = logits_TE.topk(2).values
    median = torch.exp(best_TK[:, 1] - best_TK[:, 0]).median()
    torch.testing.assert_close(skip.median, median)
    _select(skip, torch.zeros(3, 5), True)
    torch.testing.assert_close(skip.median, 0.5 * median + 0.5)
    moved = skip.median.clone()
    _select(skip, logits_TE)
    assert torch.equal(skip.median, moved)
    other = _skip()
    other.load_state_dict(skip.state_dict())
    assert torch.equal(_select(other, logits_TE).chosen_TE, _select(skip, logits_TE).chosen_TE)


def test_masks_and_empty_tokens() -> None:
    allowed_TE = torch.tensor([[False, True, True], [False, False, False]])
    found = _select(_skip(mu=0.1), torch.tensor([[9.0, 1.0, 0.9]] * 2), False, allowed_TE)
    assert found.chosen_TE.tolist() == [[False, True, True], [False, False, False]]
    assert found.weights_TE.isfinite().all()


def test_gradients_reach_the_logits_of_what_is_kept() -> None:
    logits_TE = torch.tensor([[1.0, 0.9, 0.8, -9.0]], requires_grad=True)
    found = _select(_skip(mu=0.85, in_training=True), logits_TE, True)
    assert found.chosen_TE.tolist() == [[True, True, False, False]]
    found.weights_TE[0, 0].backward()
    g = torch.softmax(logits_TE.detach()[0, :2], 0)
    wanted = torch.tensor([g[0] * g[1], -g[0] * g[1], 0.0, 0.0])
    torch.testing.assert_close(logits_TE.grad[0], wanted)


def test_refused_settings_and_lanes() -> None:
    with pytest.raises(ValueError, match="mu must be between 0 and 1"):
        SKIP.Config(mu=1.5)
    acting = SimpleNamespace(acts=True, sections={})
    assert "in_training = true" in str(SKIP.Config(mu=0.5).problems(acting)[0])
    assert SKIP.Config(in_training=True).problems(acting)
    assert SKIP.Config(mu=0.5, in_training=True).problems(acting) == []
    assert SKIP.Config().problems(SimpleNamespace(acts=False, sections={})) == []
