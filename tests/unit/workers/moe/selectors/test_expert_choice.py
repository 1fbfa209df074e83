"""Expert choice: even loads, weights of the softmax, refused where it would peek."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from orchestrator.config.checks import settings_of
from tests.fakes import tiny
from workers.moe.selectors import ExpertChoice

LAYER = {"selector": "expert_choice"}


def _logits(tokens: int, experts: int, seed: int = 0) -> Tensor:
    return torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed))


def _selector(k: float = 2.0) -> ExpertChoice:
    return ExpertChoice(ExpertChoice.Config(k=k))


@pytest.mark.parametrize(("k", "taken"), [(2.0, 20), (1.0, 10), (0.5, 5), (4.0, 40), (9.0, 40)])
def test_each_expert_takes_its_best_tokens(k: float, taken: int) -> None:
    logits_TE = _logits(40, 4)
    found = _selector(k).select(logits_TE, None, True)
    p_TE = torch.softmax(logits_TE, 1)
    assert found.chosen_TE.sum(0).tolist() == [taken] * 4
    for expert in range(4):
        best = p_TE[:, expert].argsort(descending=True)[:taken]
        assert sorted(best.tolist()) == found.chosen_TE[:, expert].nonzero().flatten().tolist()
    torch.testing.assert_close(found.weights_TE, torch.where(found.chosen_TE, p_TE, 0.0))
    assert found.as_slots().counts_E.tolist() == [taken] * 4


def test_experts_take_allowed_tokens_only() -> None:
    logits_TE = _logits(12, 3)
    allowed_TE = torch.ones(12, 3, dtype=torch.bool)
    allowed_TE[2:, 0] = False
    found = _selector().select(logits_TE, allowed_TE, True)
    assert found.chosen_TE.sum(0).tolist() == [2, 8, 8]
    assert found.chosen_TE[:2, 0].all()


@pytest.mark.parametrize(("acts", "needs"), [(True, "acts"), (False, "tokens")])
def test_lanes_that_must_not_see_other_tokens_are_refused(acts: bool, needs: str) -> None:
    config = tiny(model={"head": {"kind": "moe", "hidden": [24], "layer": LAYER}})
    settings = settings_of(config.lanes[0])
    selector = ExpertChoice.Config()
    assert selector.problems(settings) == []
    (problem,) = selector.problems(replace(settings, acts=acts, needs=needs))
    assert "choose among all tokens of a batch" in str(problem)
