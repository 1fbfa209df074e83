"""Gate weights are counted for the floor they were seen on, and traces follow one episode."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.unit.workers.rl.toy import CUES, LENGTH, ToyEngine
from workers.models.actor_critic import ActorCritic
from workers.models.cores import GRU
from workers.rl.evaluator import play
from workers.rl.floor_routing import Routing, trace


@pytest.fixture
def model() -> ActorCritic:
    config = ActorCritic.Config(encoder=8, hidden=(8,), experts=2)
    return ActorCritic(config, (CUES,), CUES, 0).eval()


def test_counting_by_floor_changes_no_answer_and_adds_up(model):
    x, floors = torch.rand(9, CUES), np.array([0, 1, 1, 0, 2, 1, 0, 0, 2])
    routing = Routing(model)
    with torch.inference_mode():
        logits, _ = routing.step(x, model.initial_state(len(x)), floors)
        assert torch.allclose(logits, model(x), atol=1e-6)
    figures = routing.by_floor()
    assert [figures[f"steps/floor{f}"] for f in range(3)] == [4, 3, 2]
    first = [figures[f"gate/layers.0/floor{f}/0"] for f in range(3)]
    assert len(set(first)) == 3
    mean = sum(w * n for w, n in zip(first, (4, 3, 2), strict=True)) / 9
    assert routing.total()["layers.0"][0] == pytest.approx(mean)
    assert sum(routing.total()["layers.0"]) == pytest.approx(1.0)


def test_counting_by_floor_keeps_each_ones_own_state():
    config = ActorCritic.Config(encoder=8, core=GRU.Config(size=6), hidden=(8,), experts=2)
    model = ActorCritic(config, (CUES,), CUES, 0).eval()
    x, state, floors = torch.rand(5, CUES), torch.rand(5, 6), np.array([1, 0, 2, 0, 1])
    with torch.inference_mode():
        counted, plain = Routing(model).step(x, state, floors), model.step(x, state)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(counted, plain, strict=True))


def test_only_the_episodes_asked_for_are_counted(model):
    routing = Routing(model)
    played = play(model, ToyEngine(3), episodes=2, max_steps=50, seed=1, routing=routing)
    figures = routing.by_floor()
    steps = sum(n for name, n in figures.items() if name.startswith("steps/"))
    assert steps == sum(episode.length for episode in played) == 2 * LENGTH


def test_a_trace_has_one_entry_for_each_step_of_the_first_episode(model):
    engine = ToyEngine(3)
    found = trace(model, engine, max_steps=50, seed=1)
    assert len(found.floors) == LENGTH
    assert np.array(found.gates["layers.0"]).shape == (LENGTH, 2)
    assert np.allclose(np.array(found.gates["layers.0"]).sum(1), 1.0)
    assert set(found.floors) <= {0, 1}
