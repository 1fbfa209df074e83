"""Tasks of different sizes behind one model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.unit.workers.rl.test_wrappers import GRID, stream
from workers.rl.environments.padding import Padded

TWO: dict[str, Any] = {
    "tasks": [
        {"name": "pole"},
        {"name": "swing", "environment": "Acrobot-v1", "smallest_return": -500.0},
    ]
}


def test_the_largest_sizes_are_the_model_s() -> None:
    played = stream(**TWO, pad=True)
    assert not played.problems()
    assert (played.input_shape, played.outputs) == ((6,), 3)
    for task in played.tasks():
        batch = played.environment(task, 2)
        assert (batch.observation_shape, batch.actions) == ((6,), 3)
        batch.seed(0)
        assert batch.reset().shape == (2, 6)
        batch.close()


def test_numbers_behind_are_zero_and_actions_fold() -> None:
    played = stream(**TWO, pad=True)
    pole, _ = played.tasks()
    padded = played.environment(pole, 2)
    plain = stream(tasks=[{"name": "pole"}]).environment(pole, 2)
    for batch in (padded, plain):
        batch.seed(5)
    assert np.array_equal(padded.reset()[:, :4], plain.reset())
    for actions, folded in (([0, 1], [0, 1]), ([2, 1], [0, 1]), ([2, 2], [0, 0])):
        seen, rewards, *ends = padded.step(np.array(actions))
        known, given, *stops = plain.step(np.array(folded))
        assert np.array_equal(seen[:, :4], known)
        assert not seen[:, 4:].any()
        assert np.array_equal(rewards, given)
        assert np.array_equal(ends, stops)
    assert np.array_equal(padded.renew(np.array([1]))[:, :4], plain.renew(np.array([1])))
    for batch in (padded, plain):
        batch.close()


def test_without_padding_they_are_refused_with_the_cure() -> None:
    (problem,) = stream(**TWO).problems()
    assert problem.path == "stream.tasks.1.environment"
    assert "observed as (6,) dense with 3 actions, task 'pole' as (4,) dense with 2" in str(problem)
    assert "set pad = true" in str(problem)


def test_what_is_no_vector_is_not_padded() -> None:
    image = {"name": "grid", **GRID, "wrappers": [{"kind": "part", "name": "image"}]}
    problems = stream(tasks=[{"name": "pole"}, image], pad=True).problems()
    assert [problem.path for problem in problems] == ["stream.tasks.1.environment"]
    assert "only vectors are padded" in str(problems[0])


@pytest.mark.parametrize("pad", [False, True])
def test_sizes_that_agree_play_alike_with_padding_and_without(pad: bool) -> None:
    played = stream(environments=["CartPole-v1"], pad=pad)
    assert isinstance(played.facts, Padded) == pad
    batch = played.environment(played.tasks()[0], 1)
    batch.seed(1)
    first = batch.reset().copy()
    seen = [batch.step(np.array([1]))[0].copy() for _ in range(4)]
    plain = stream(environments=["CartPole-v1"])
    again = plain.environment(plain.tasks()[0], 1)
    again.seed(1)
    assert np.array_equal(first, again.reset())
    assert np.array_equal(seen, [again.step(np.array([1]))[0].copy() for _ in range(4)])
