"""Episodes are closed exactly where they end, and the gymnasium door resets one step later."""

from __future__ import annotations

import numpy as np
import torch

from tests.unit.workers.rl.toy import LENGTH, ToyEngine
from workers.rl.environments.base import EpisodeLog, summary
from workers.rl.environments.vector_env import VectorEnvironment
from workers.rl.rollout import Rollout, advantages


def test_the_log_closes_each_episode_once_with_its_own_sum():
    engine = ToyEngine(3)
    engine.reset()
    engine.age[1] = 5  # one environment is half-way already
    log, ended = EpisodeLog(3), []
    for _ in range(LENGTH):
        _, rewards, done, cut = engine.step(engine.cue)  # always right
        ended += log.add(engine, rewards, done, cut)
        if done.any():
            engine.renew(np.flatnonzero(done))
    assert [(e.index, e.length) for e in ended] == [(1, 5), (0, 10), (2, 10)]
    assert np.allclose([e.total for e in ended], [0.5, 1.0, 1.0])
    assert np.isclose(summary(ended, largest=2.0)["return_share"], 2.5 / 3 / 2)
    assert summary([], largest=2.0) == {"episodes": 0.0}


def test_the_gymnasium_door_resets_one_step_after_the_end():
    door = VectorEnvironment(ToyEngine(2))
    door.reset(seed=3)
    for _ in range(LENGTH - 1):
        _, _, ended, _, _ = door.step(door.engine.cue)
        assert not ended.any()
    _, rewards, ended, truncated, _ = door.step(door.engine.cue)
    assert ended.all()
    assert not truncated.any()
    assert rewards.sum() > 0
    _, rewards, ended, _, _ = door.step(door.engine.cue)
    assert not ended.any()
    assert rewards.sum() == 0
    assert door.engine.renewed == 2


def test_advantages_match_the_definition_step_by_step():
    torch.manual_seed(0)
    T, N, gamma, decay = 7, 3, 0.9, 0.8
    rewards, values = torch.rand(T, N), torch.rand(T + 1, N)
    terminated = torch.rand(T, N) < 0.2
    truncated = (torch.rand(T, N) < 0.3) & ~terminated
    assert terminated.any()
    assert truncated.any()
    finals = torch.rand(int(truncated.sum()))
    final = torch.zeros(T, N)
    final[truncated] = finals
    expected = torch.zeros(T, N)
    for n in range(N):
        for t in range(T):
            weight = 1.0
            for k in range(t, T):
                follows = values[k + 1, n]
                if terminated[k, n]:
                    follows = 0.0
                elif truncated[k, n]:
                    follows = final[k, n]
                delta = rewards[k, n] + gamma * follows - values[k, n]
                expected[t, n] += weight * delta
                weight *= gamma * decay * (not (terminated[k, n] or truncated[k, n]))
    found = advantages(rewards, values, terminated, truncated, finals, gamma, decay)
    assert torch.allclose(found, expected, atol=1e-6)


def test_a_cut_off_episode_is_worth_what_would_have_followed_and_a_terminated_one_is_not():
    rewards, values = torch.ones(1, 2), torch.tensor([[0.5, 0.5], [100.0, 100.0]])
    terminated, truncated = torch.tensor([[True, False]]), torch.tensor([[False, True]])
    found = advantages(rewards, values, terminated, truncated, torch.tensor([10.0]), 0.9, 0.8)
    assert torch.allclose(found, torch.tensor([[1.0 - 0.5, 1.0 + 0.9 * 10.0 - 0.5]]))


def test_a_rollout_is_cut_between_environments():
    T, N = 4, 6
    grid = np.arange(T * N).reshape(T, N)
    rollout = Rollout(
        observations=np.zeros((T + 1, N, 2), np.float32),
        actions=grid,
        log_probabilities=grid.astype(np.float32),
        logits=np.zeros((T, N, 3), np.float32),
        rewards=grid.astype(np.float32),
        terminated=np.zeros((T, N), bool),
        truncated=(grid % 5 == 0),
        state=np.arange(2.0 * N, dtype=np.float32).reshape(1, N, 2),
        final_observations=grid[grid % 5 == 0].astype(np.float32)[:, None],
        final_states=grid[grid % 5 == 0].astype(np.float32)[:, None],
    )
    first, rest = rollout[: 2 * T], rollout.slice(slice(2 * T, None))
    assert (len(first), len(rest), len(rollout)) == (2 * T, 4 * T, 6 * T)
    assert np.array_equal(np.concatenate([first.actions, rest.actions], 1), grid)
    assert first.observations.shape == (T + 1, 2, 2)
    assert np.array_equal(np.concatenate([first.state, rest.state], 1), rollout.state)
    for part in (first, rest):
        assert np.array_equal(part.final_observations[:, 0], part.actions[part.truncated])
        assert np.array_equal(part.final_states, part.final_observations)
    assert len(first.final_states) + len(rest.final_states) == len(rollout.final_states) == 5
