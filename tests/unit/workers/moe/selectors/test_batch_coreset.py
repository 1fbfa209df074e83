"""The batch coreset: few distinct experts, the set of the formula, a fixed one after training."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from workers.moe.routed import Birth
from workers.moe.selectors import SELECTORS

CORESET = SELECTORS["batch_coreset"]


def _selector(experts: int = 8, **settings):
    selector = CORESET(CORESET.Config(**settings))
    selector.experts_changed({n: Birth() for n in range(experts)})
    return selector


def _logits(tokens: int = 64, experts: int = 8) -> torch.Tensor:
    torch.manual_seed(tokens + experts)
    return torch.randn(tokens, experts) + torch.linspace(0, 1, experts)


@pytest.mark.parametrize(("k", "share"), list(itertools.product([1, 2, 3], [0.25, 0.3, 0.5, 1.0])))
def test_vote_takes_the_experts_with_most_masked_weight(k: int, share: float) -> None:
    logits_TE = _logits()
    weights = "full" if k == 1 else "chosen"
    chosen_TE = _selector(k=k, share=share, weights=weights).select(logits_TE, None, True).chosen_TE
    votes = [0.0] * 8
    for p_E in torch.softmax(logits_TE, 1).tolist():
        for e in sorted(range(8), key=lambda e: -p_E[e])[:k]:
            votes[e] += p_E[e]
    size = math.ceil(share * 8)
    core = set(sorted(range(8), key=lambda e: -votes[e])[:size])
    distinct = set(chosen_TE.any(0).nonzero().flatten().tolist())
    assert distinct <= core
    assert len(distinct) <= size
    for logits_E, chosen_E in zip(logits_TE.tolist(), chosen_TE, strict=True):
        best = set(sorted(core, key=lambda e: -logits_E[e])[:k])
        assert set(chosen_E.nonzero().flatten().tolist()) == best


def test_seq_takes_the_union_of_the_first_and_weights_are_renormalised() -> None:
    logits_TE = _logits(5)
    found = _selector(rule="seq", k=3, first=1).select(logits_TE, None, True)
    core = sorted(set(logits_TE.argmax(1).tolist()))
    assert set(found.chosen_TE.any(0).nonzero().flatten().tolist()) <= set(core)
    for logits_E, weights_E in zip(logits_TE, found.weights_TE, strict=True):
        best = sorted(core, key=lambda e: -float(logits_E[e]))[:3]
        wanted = torch.zeros(8)
        wanted[best] = torch.softmax(logits_E[best], 0)
        torch.testing.assert_close(weights_E, wanted)
    torch.testing.assert_close(found.weights_TE.sum(1), torch.ones(5))


def test_outside_training_a_token_does_not_depend_on_its_neighbours() -> None:
    selector, logits_TE = _selector(k=2, share=0.25), _logits()
    for _ in range(3):
        selector.select(logits_TE, None, True)
    votes = selector.votes.clone()
    whole = selector.select(logits_TE, None, False)
    alone = torch.cat(
        [selector.select(row.unsqueeze(0), None, False).weights_TE for row in logits_TE]
    )
    torch.testing.assert_close(whole.weights_TE, alone, rtol=0, atol=0)
    assert torch.equal(selector.votes, votes), "evaluation moves nothing"
    assert int(whole.chosen_TE.any(0).sum()) <= 2
    fresh = _selector(k=2, share=0.25).select(logits_TE, None, False)
    assert int(fresh.chosen_TE.any(0).sum()) > 2, "all experts before the first batch"


def test_running_votes_and_size_are_means_that_follow_the_batches() -> None:
    selector = _selector(k=1, share=0.5, weights="full", momentum=0.5)
    one, two = _logits(16), _logits(32)

    def votes(logits_TE):
        p_TE = torch.softmax(logits_TE, 1)
        return (p_TE * (p_TE == p_TE.amax(1, keepdim=True))).mean(0)

    selector.select(one, None, True)
    torch.testing.assert_close(selector.votes, votes(one))
    selector.select(two, None, True)
    torch.testing.assert_close(selector.votes, 0.5 * votes(one) + 0.5 * votes(two))
    assert float(selector.size) == 4


def test_growth_keeps_votes_of_old_experts() -> None:
    selector = _selector(4)
    selector.select(_logits(8, 4), None, True)
    before = selector.votes.clone()
    selector.experts_changed({0: Birth(), 1: Birth(), 3: Birth(), 4: Birth("new")})
    assert torch.equal(selector.votes[:3], before[[0, 1, 3]])
    assert selector.votes[3] == 0
    other = _selector(4)
    other.experts_changed({0: Birth(), 1: Birth(), 3: Birth(), 4: Birth("new")})
    other.load_state_dict(selector.state_dict())
    logits_TE = _logits(9, 4)
    ours, theirs = (s.select(logits_TE, None, False).weights_TE for s in (selector, other))
    assert torch.equal(ours, theirs)


def test_a_token_without_an_allowed_expert_in_the_set_keeps_its_own() -> None:
    selector = _selector(4, k=2, share=0.25)
    logits_TE = torch.tensor([[9.0, 0, 0, 0]] * 9 + [[9.0, 0, 0, 1]])
    allowed_TE = torch.ones(10, 4, dtype=torch.bool)
    allowed_TE[-1, 0] = False
    chosen_TE = selector.select(logits_TE, allowed_TE, True).chosen_TE
    assert chosen_TE[:9].tolist() == [[True, False, False, False]] * 9
    assert chosen_TE[9, 3]
    assert not chosen_TE[9, 0]


def test_refused_settings_and_lanes() -> None:
    with pytest.raises(ValueError, match="first must be 1 to k"):
        CORESET.Config(k=2, first=3)
    with pytest.raises(ValueError, match="share above 0"):
        CORESET.Config(share=0.0)
    with pytest.raises(ValueError, match="never learns"):
        CORESET.Config(k=1)
    (problem,) = CORESET.Config().problems(SimpleNamespace(acts=True, sections={}))
    assert "acts one step at a time" in str(problem)
    assert CORESET.Config().problems(SimpleNamespace(acts=False, sections={})) == []
    assert _selector(k=4, share=0.25).active(8) == 2
