"""The best and the most different win: by hand, and in a merge."""

from __future__ import annotations

import pytest
import torch

from tests.unit.workers.merges.models import dense, routed
from tests.unit.workers.merges.test_ridge import scene
from workers.contract import InputError
from workers.merges import Select
from workers.merges.select import kshot, winners
from workers.streams.sampling import of_each


def test_score_first_then_score_and_distance() -> None:
    vectors = [torch.tensor(v) for v in ([1.0, 0.0], [0.999, 0.01], [0.0, 1.0], [-1.0, 0.0])]
    scores = [0.9, 0.89, 0.5, 0.0]
    assert winners(scores, vectors, 3, 0.0) == [0, 1, 2]
    assert winners(scores, vectors, 2, 0.4) == [0, 2], "0.5 + 0.4 against 0.89 and 0.4 x 2"
    assert winners(scores, vectors, 2, 2.0) == [0, 3]


def test_the_mixture_is_made_of_the_winners_alone() -> None:
    parents = [dense([24], seed) for seed in range(4)]
    model = routed(2, 24, 2, [], last=False)
    merge = Select(Select.Config(shots=4, diversity=0.0))
    merge.check(model, parents)
    merge.fill(model, parents, scene())
    scores = kshot(parents, scene(), 4)
    best = sorted(range(4), key=lambda i: -scores[i])[:2]
    for number, place in enumerate(best):
        weight = parents[place].head.layers[0].weight
        assert torch.equal(model.head.layers[0].expert(number).up.weight, weight)


def test_too_few_candidates_are_refused() -> None:
    with pytest.raises(InputError, match="3 experts, to be chosen among 2"):
        Select(Select.Config()).check(routed(3, 24, 2, [], False), [dense([24]), dense([24])])


def test_every_class_has_its_shots_however_rare_it_is() -> None:
    groups = torch.tensor([0] * 90 + [1] * 8 + [3] * 2)
    drawn = of_each(groups, 4, seed=1)
    assert groups[drawn].bincount().tolist() == [4, 4, 0, 2]
    assert torch.equal(drawn, of_each(groups, 4, seed=1))
    assert not torch.equal(drawn, of_each(groups, 4, seed=2))
