"""The real Craftax engine keeps what the catalogue says of it, and plays what tasks ask for."""

from __future__ import annotations

import numpy as np
import pytest

from workers.rl import ENVIRONMENTS
from workers.rl.environments.base import EnvironmentTask

pytestmark = pytest.mark.craftax

CLASSIC = ENVIRONMENTS["Craftax-Classic-Symbolic-v1"]
FULL = ENVIRONMENTS["Craftax-Symbolic-v1"]
ENVS = 8


@pytest.fixture(scope="module")
def engine():
    return CLASSIC.build(ENVS, engine="jax")


def play(engine, steps: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    trace = []
    for _ in range(steps):
        observations, rewards, done, _ = engine.step(rng.integers(0, engine.actions, ENVS))
        trace.append((observations.sum(), rewards.copy(), done.copy()))
        if done.any():
            engine.renew(np.flatnonzero(done))
    return trace


@pytest.mark.parametrize("name", [CLASSIC.name, FULL.name])
def test_the_catalogue_is_what_craftax_says(name):
    facts = ENVIRONMENTS[name]
    from workers.rl.environments.craftax.engine import shared_environment

    environment = shared_environment(name)
    params = environment.default_params
    if facts is FULL:
        from craftax.craftax.constants import ACHIEVEMENT_REWARD_MAP, Achievement

        assert facts.rewards == tuple(np.asarray(ACHIEVEMENT_REWARD_MAP, float))
        assert sum(facts.rewards) == 226
    else:
        from craftax.craftax_classic.constants import Achievement
    order = sorted(Achievement, key=lambda item: item.value)
    assert facts.achievements == tuple(item.name.lower() for item in order)
    assert {key: getattr(params, key) for key in facts.params} == facts.params
    assert facts.observation_shape == environment.observation_space(params).shape
    assert facts.actions == environment.action_space(params).n


def test_the_same_seed_plays_the_same_games_and_another_does_not(engine):
    traces = []
    for seed in (1, 1, 2):
        engine.set_task(EnvironmentTask())
        engine.seed(seed)
        engine.reset()
        traces.append(play(engine, 30))
    sums = [[step[0] for step in trace] for trace in traces]
    assert sums[0] == sums[1] != sums[2]


def test_the_engines_reward_is_craftaxs_own(engine):
    import jax

    from workers.rl.environments.craftax.engine import shared_environment

    environment = shared_environment(CLASSIC.name)
    params = environment.default_params
    engine.set_task(EnvironmentTask())
    engine.seed(3)
    engine.reset()
    rng = np.random.default_rng(0)
    for count in range(40):
        actions = rng.integers(0, CLASSIC.actions, ENVS)
        first = jax.tree.map(lambda leaf: leaf[0].copy(), engine._state)
        keys = jax.random.split(jax.random.fold_in(engine._key, np.uint32(2 * count)), ENVS)
        _, _, wanted, _, _ = environment.step(keys[0], first, actions[0], params)
        _, rewards, done, _ = engine.step(actions)
        assert rewards[0] == pytest.approx(float(wanted), abs=1e-6)
        if done.any():
            engine.renew(np.flatnonzero(done))


def test_only_ended_environments_begin_anew(engine):
    engine.set_task(EnvironmentTask(params={"max_timesteps": 5}))
    engine.seed(4)
    engine.reset()
    engine.step(np.zeros(ENVS, int))
    before = np.array(engine._observations)
    after = engine.renew(np.array([2, 5]))
    changed = {i for i in range(ENVS) if not np.array_equal(before[i], after[i])}
    assert changed == {2, 5}
    ends = [done for _, _, done in play(engine, 4)]
    assert [end.sum() for end in ends] == [0, 0, 0, ENVS - 2]


def test_switching_the_task_compiles_nothing_and_rewards_only_what_it_lists(engine):
    from workers.rl.environments.craftax.engine import programs

    known = programs.cache_info().misses
    task = EnvironmentTask(achievements=("collect_wood",), params={"day_length": 10})
    engine.set_task(task)
    engine.seed(5)
    engine.reset()
    rewards = np.concatenate([reward for _, reward, _ in play(engine, 200)])
    assert set(np.unique(rewards)) == {0.0, 1.0}
    assert CLASSIC.build(ENVS, engine="jax")._programs is engine._programs
    assert programs.cache_info().misses == known


def test_a_start_on_a_deeper_floor_is_a_state_the_game_can_reach():
    """Moving an agent is a pure function of a world: no need to compile the whole game."""
    import jax

    from workers.rl.environments.craftax.engine import _placed, shared_environment, task_arguments

    environment = shared_environment(FULL.name)
    task = task_arguments(FULL, EnvironmentTask(start_floor=3))
    _, state = environment.reset(jax.random.PRNGKey(0))
    moved = _placed(state, task)
    row, column = np.asarray(moved.player_position)
    assert int(moved.player_level) == 3
    assert (row, column) == tuple(np.asarray(state.up_ladders[3]))
    unlocked = np.asarray(moved.achievements)
    names = {name for name, got in zip(FULL.achievements, unlocked, strict=True) if got}
    assert names == {"enter_dungeon", "enter_gnomish_mines", "enter_sewers"}
    assert FULL.deepest_floor(unlocked) == 3
    assert np.asarray(moved.monsters_killed)[:3].min() >= 8
    surface = _placed(state, task_arguments(FULL, EnvironmentTask()))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), surface, state)
    assert all(jax.tree.leaves(same))
