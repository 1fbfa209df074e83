"""The short forms of observations say what Craftax's own say, in any state on any floor."""

from __future__ import annotations

import numpy as np
import pytest

from workers.rl import ENVIRONMENTS
from workers.rl.environments.base import EnvironmentTask
from workers.rl.environments.craftax import compact

pytestmark = pytest.mark.craftax

STATES = 64


def shaken(state, floor: int, rng):
    """A state with everything that is seen drawn anew: blocks, items, light, creatures, place."""
    world = state.map.shape[-2:]
    position = rng.integers(0, world, 2)
    changed = {
        "player_position": position.astype(np.int32),
        "player_health": rng.integers(0, 9) + np.zeros_like(state.player_health),
        "light_level": np.float32(rng.random()),
    }

    def scattered(mobs, kinds):
        near = position + rng.integers(-7, 8, mobs.position.shape)
        drawn = {
            "position": near.astype(mobs.position.dtype),
            "mask": rng.random(mobs.mask.shape) < 0.7,
        }
        if kinds:
            drawn["type_id"] = rng.integers(0, 8, mobs.type_id.shape).astype(np.int32)
        return mobs.replace(**drawn)

    if state.map.ndim == 2:
        groups = ("zombies", "cows", "skeletons", "arrows")
        changed["map"] = rng.integers(0, 17, state.map.shape).astype(state.map.dtype)
    else:
        groups = ("melee_mobs", "passive_mobs", "ranged_mobs", "mob_projectiles")
        groups += ("player_projectiles",)
        changed["player_level"] = np.int32(floor)
        changed["map"] = rng.integers(0, 36, state.map.shape).astype(state.map.dtype)
        things = rng.integers(0, 5, state.map.shape) * (rng.random(state.map.shape) < 0.3)
        changed["item_map"] = things.astype(state.item_map.dtype)
        dark = rng.random(state.map.shape) * (rng.random(state.map.shape) < rng.random())
        changed["light_map"] = dark.astype(state.light_map.dtype)
    changed |= {name: scattered(getattr(state, name), state.map.ndim == 3) for name in groups}
    return state.replace(**changed)


@pytest.mark.parametrize("name", ["Craftax-Classic-Symbolic-v1", "Craftax-Symbolic-v1"])
def test_compact_observations_are_the_dense_ones_in_random_states_on_every_floor(name):
    import jax

    from workers.rl.environments.craftax.engine import shared_environment

    facts, environment = ENVIRONMENTS[name], shared_environment(name)
    full = len(facts.floors) > 1
    encode = (compact.full if full else compact.classic)(environment)
    seen = jax.jit(jax.vmap(lambda state: (encode(state), environment.get_obs(state))))
    blank = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(environment.reset_env, np.zeros(2, np.uint32), environment.default_params),
    )[1]
    rng = np.random.default_rng(0)
    for floor in range(len(facts.floors)):
        states = [shaken(blank, floor, rng) for _ in range(STATES)]
        short, dense = seen(jax.tree.map(lambda *leaves: np.stack(leaves), *states))
        short = np.asarray(short)
        assert short.shape == (STATES, facts.layout.width)
        assert np.array_equal(facts.layout.dense(short), np.asarray(dense)), facts.floors[floor]


def test_both_forms_of_one_game_are_played_alike():
    facts = ENVIRONMENTS["Craftax-Classic-Symbolic-v1"]
    played = []
    for form in facts.forms:
        engine = facts.build(8, form)
        engine.set_task(EnvironmentTask(params={"max_timesteps": 12}))
        engine.seed(3)
        rng, trace = np.random.default_rng(0), [np.array(engine.reset())]
        for _ in range(30):
            observations, rewards, done, _ = engine.step(rng.integers(0, engine.actions, 8))
            if done.any():
                observations = engine.renew(np.flatnonzero(done))
            trace += [np.array(observations), rewards]
        played.append(trace)
    for short, dense in zip(*played, strict=True):
        long = facts.layout.dense(short) if short.dtype == np.int16 else short
        assert np.array_equal(long, dense)


def test_an_auto_reset_environment_shows_the_new_episode_at_once():
    engine = ENVIRONMENTS["Craftax-Classic-Symbolic-AutoReset-v1"].build(8, "compact")
    engine.set_task(EnvironmentTask(params={"max_timesteps": 4}))
    engine.seed(1)
    engine.reset()
    lengths = []
    for step in range(1, 13):
        observations, _, done, _ = engine.step(np.zeros(8, int))
        before = np.array(observations)
        if done.any():
            lengths.append(step)
            assert np.array_equal(engine.renew(np.flatnonzero(done)), before)
    assert lengths
    assert lengths == list(range(lengths[0], 13, lengths[0]))
