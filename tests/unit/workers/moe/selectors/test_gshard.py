"""GShard routing: the second expert at random by its weight, first choices before second ones."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from workers.moe.selectors import GShard
from workers.moe.selectors.capacity import arrivals


def _logits(tokens: int, experts: int, seed: int = 0) -> Tensor:
    return torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed))


def _selector(**settings: Any) -> GShard:
    return GShard(GShard.Config(**settings))


@pytest.mark.parametrize("capacity", [0.4, 1.0, 9.0])
def test_first_choices_take_their_places_before_second_ones(capacity: float) -> None:
    logits_TE = _logits(50, 4)
    found = _selector(capacity=capacity, second="all").select(logits_TE, None, True)
    p_TE, places = torch.softmax(logits_TE, 1), math.ceil(capacity * 2 * 50 / 4)
    best_TK = logits_TE.argsort(1, descending=True)[:, :2].tolist()
    taken, wanted_TE = [0] * 4, torch.zeros(50, 4)
    for choice in (0, 1):
        for token, pair in enumerate(best_TK):
            expert = pair[choice]
            if taken[expert] < places:
                taken[expert] += 1
                both = float(p_TE[token, pair[0]] + p_TE[token, pair[1]])
                wanted_TE[token, expert] = float(p_TE[token, expert]) / both
    torch.testing.assert_close(found.weights_TE, wanted_TE)
    assert found.as_slots().counts_E.tolist() == taken


def test_the_second_expert_runs_with_twice_its_weight_as_probability() -> None:
    logits_TE = torch.tensor([[1.0, 0.0, -9.0]]).repeat(20_000, 1)
    torch.manual_seed(3)
    found = _selector(capacity=9.0).select(logits_TE, None, True)
    second = 1 / (1 + math.e)
    share = float(found.chosen_TE[:, 1].double().mean())
    assert share == pytest.approx(2 * second, abs=4 * math.sqrt(0.25 / 20_000))
    assert bool(found.chosen_TE[:, 0].all())
    wanted = torch.full((20_000,), 1 - second)
    torch.testing.assert_close(found.weights_TE[:, 0], wanted, msg="not renormalised")


def test_without_training_both_run() -> None:
    logits_TE = _logits(40, 5)
    found = _selector(capacity=0.1).select(logits_TE, None, False)
    assert found.chosen_TE.sum(1).tolist() == [2] * 40
    torch.testing.assert_close(found.weights_TE.sum(1), torch.ones(40))


def test_the_same_draws_the_same_choice() -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(11)
        found.append(_selector().select(_logits(64, 4), None, True).weights_TE)
    assert torch.equal(*found)


def test_arrivals_count_slots_of_the_same_expert_column_by_column() -> None:
    selected_TK = torch.tensor([[1, 0], [1, 2], [0, 1], [1, -1]])
    assert arrivals(selected_TK)[:, 0].tolist() == [0, 1, 0, 2]
    assert arrivals(selected_TK)[:3, 1].tolist() == [1, 0, 3]


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="capacity must be above 0"):
        GShard.Config(capacity=-1.0)
