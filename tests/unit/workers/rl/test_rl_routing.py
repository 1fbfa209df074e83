"""Gate weights are counted for the floor they were seen on, and traces follow one episode."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.unit.workers.rl.toy import CUES, LENGTH, ToyEngine
from workers.diagnostics import Gates
from workers.diagnostics.observing import PROBE_SAMPLES, observe
from workers.models.actor_critic import ActorCritic
from workers.moe.layers import ChainLayer
from workers.rl.evaluator import Visits, play
from workers.rl.floor_routing import FloorGates, trace


@pytest.fixture
def model() -> ActorCritic:
    config = ActorCritic.Config(encoder=8, hidden=(8,), experts=2)
    return ActorCritic(config, (CUES,), CUES, 0).eval()


def gates(rows: list[list[float]]) -> dict[str, Gates]:
    weights = torch.tensor(rows)
    return {"l": Gates(weights=weights, chosen=weights > 0, probabilities=weights)}


def test_gate_weights_by_floor_and_over_all_floors():
    counted = FloorGates()
    rows = [[0.25, 0.75], [1.0, 0.0], [0.75, 0.25], [0.0, 1.0]]
    counted.add(gates(rows), np.array([0, 1, 0, 1]), np.array([True, True, True, False]))
    counted.add(gates(rows), np.array([2, 1, 1, 1]), np.array([False, True, False, False]))
    figures = counted.by_floor()
    assert [figures[f"steps/floor{f}"] for f in (0, 1)] == [2, 2]
    assert "steps/floor2" not in figures, "nothing counted there"
    assert figures["gate/l/floor0/0"] == 0.5
    assert figures["gate/l/floor1/0"] == 1.0
    assert counted.total()["l"] == [0.75, 0.25]


def test_watching_changes_no_episode_and_sees_every_step(model):
    plain = play(model, ToyEngine(3), episodes=2, max_steps=50, seed=1)
    met: list[int] = []
    with observe(model) as take:

        def watch(step, observations, state, running):
            assert len(observations) == len(take()["layers.0"].weights) == 3
            assert not running[2], "only the episodes asked for"
            met.append(int(running.sum()))

        watched = play(model, ToyEngine(3), episodes=2, max_steps=50, seed=1, watch=watch)
    assert watched == plain
    assert sum(met) == sum(episode.length for episode in plain) == 2 * LENGTH


def test_visits_keep_a_bounded_sample_of_what_was_allowed():
    visits, again = Visits(3), Visits(3)
    for step in range(3 * PROBE_SAMPLES):
        x = torch.tensor([[step, 0.0], [step, 1.0], [step, 2.0]])
        for one in (visits, again):
            one.add(x, torch.zeros(3, 0), np.array([True, True, False]))
    x, state = visits.kept()
    assert x.shape == (PROBE_SAMPLES, 2)
    assert state.shape == (PROBE_SAMPLES, 0)
    assert set(x[:, 1].tolist()) == {0.0, 1.0}
    assert len(set(x[:, 0].tolist())) == PROBE_SAMPLES, "one a step"
    late = (x[:, 0] >= 1.5 * PROBE_SAMPLES).double().mean()
    assert 0.35 < late < 0.65, "early and late steps alike"
    assert again.kept()[0].equal(x)


def test_a_trace_has_one_entry_for_each_step_of_the_first_episode(model):
    engine = ToyEngine(3)
    found = trace(model, engine, max_steps=50, seed=1)
    assert len(found.floors) == LENGTH
    assert np.array(found.gates["layers.0"]).shape == (LENGTH, 2)
    assert np.allclose(np.array(found.gates["layers.0"]).sum(1), 1.0)
    assert set(found.floors) <= {0, 1}


def test_floors_and_traces_of_a_chain_count_each_step_once():
    config = ActorCritic.Config(
        encoder=8, hidden=(8,), experts=2, layer=ChainLayer.Config(rounds=2)
    )
    model = ActorCritic(config, (CUES,), CUES, 0).eval()
    with observe(model) as take, torch.no_grad():
        model(torch.eye(CUES))
        counted = FloorGates()
        counted.add(take(), np.zeros(CUES, int), np.array([True, True, True, False]))
    assert counted.by_floor()["steps/floor0"] == 3
    assert sum(counted.total()["layers.0"]) == pytest.approx(1.0)
    traced = trace(model, ToyEngine(3), max_steps=50, seed=1).gates["layers.0"]
    assert [sum(row) for row in traced] == pytest.approx([1.0] * len(traced))
