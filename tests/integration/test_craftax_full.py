"""The full game in C++ does to the bit what Craftax does under JAX."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.craftax_full_states import purposeful, scrambled
from workers.rl import ENVIRONMENTS
from workers.rl.environments.base import EnvironmentTask
from workers.rl.environments.craftax.engine import CraftaxEngine, shared_environment
from workers.rl.environments.craftax.native import library
from workers.rl.environments.craftax.native.engine import NativeEngine
from workers.rl.environments.craftax.native.full import FULL
from workers.rl.environments.craftax.native.game import from_native, to_native

pytestmark = [
    pytest.mark.slow,  # compiles Craftax: minutes
    pytest.mark.craftax,
    pytest.mark.skipif(library.load().functions is None, reason=library.load().why),
]
ENVS = 16
WANDERING = (1, 2, 3, 4, 5, 18, 18, 19, 24)
"""Moves, blows and arrows; down more often than up."""


FACTS = ENVIRONMENTS["Craftax-Symbolic-v1"]


@pytest.fixture(scope="module")
def engines():
    """The same games under JAX and in C++."""
    return CraftaxEngine(FACTS, ENVS, "compact"), NativeEngine(FACTS, ENVS, "compact")


def begin(engines: Any, task: EnvironmentTask, seed: int) -> None:
    for engine in engines:
        engine.set_task(task)
        engine.seed(seed)
    compare("observations", *(np.asarray(engine.reset()) for engine in engines))


def compare(what: str, expected: np.ndarray, actual: np.ndarray) -> None:
    if expected.dtype == np.float32:
        expected, actual = (np.ascontiguousarray(x).view(np.uint32) for x in (expected, actual))
    different = np.argwhere(expected != actual)
    assert not len(different), f"{what} differs at {different[:5].tolist()}"


def compare_states(engines: Any) -> None:
    jax_engine, native = engines
    compare_fields(to_native(FULL, jax_engine._state), native.states, "")


def compare_fields(expected: Any, actual: Any, path: str) -> None:
    for name in expected.dtype.names:
        if expected[name].dtype.names:
            compare_fields(expected[name], actual[name], f"{path}{name}.")
        else:
            compare(path + name, expected[name], actual[name])


def play(engines: Any, steps: int, rng: np.random.Generator, looks: bool = True) -> None:
    """Steps with random actions, many of them to some purpose; ended games begin anew.

    States are compared after each step if ``looks``, else only what is seen of them.
    """
    for _ in range(steps):
        actions = purposeful(engines[1].states, rng) if looks else rng.choice(WANDERING, ENVS)
        expected, actual = (engine.step(actions) for engine in engines)
        for what, one, other in zip(
            ("observations", "rewards", "terminated", "truncated"), expected, actual, strict=True
        ):
            compare(what, np.asarray(one), np.asarray(other))
        if looks:
            compare_states(engines)
        ended = np.flatnonzero(actual[2])
        for index in ended:
            outcomes = [engine.outcome(int(index)) for engine in engines]
            assert outcomes[0] == outcomes[1]
        renewed = [np.asarray(engine.renew(ended)) for engine in engines]
        compare("observations of new worlds", *renewed)
        compare("floors", *(engine.floors() for engine in engines))


def test_worlds_and_play_from_a_seed_are_the_same(engines):
    begin(engines, EnvironmentTask(), seed=5)
    compare_states(engines)
    play(engines, 60, np.random.default_rng(0))


@pytest.mark.parametrize(
    "task",
    [
        EnvironmentTask(start_floor=4, params={"god_mode": True, "day_length": 17}),
        EnvironmentTask(
            start_floor=8,
            achievements=("collect_wood", "eat_bat"),
            params={"max_timesteps": 5, "max_attribute": 2, "mob_despawn_distance": 6},
        ),
        EnvironmentTask(start_floor=2, params={"always_diamond": True}),
    ],
)
def test_tasks_mean_the_same(engines, task):
    begin(engines, task, seed=task.start_floor)
    compare_states(engines)
    play(engines, 12, np.random.default_rng(task.start_floor))


def test_floors_are_made_when_the_first_comes_to_them(engines):
    """In god mode they go down anywhere, and nobody looks at the states while they play."""
    native = engines[1]
    begin(engines, EnvironmentTask(params={"god_mode": True, "max_timesteps": 60}), seed=9)
    play(engines, 100, np.random.default_rng(9), looks=False)
    unmade = native._states["unmade"]["floors"]
    assert len(np.unique(unmade)) > 1, "games came to different floors"
    assert unmade.any(), "and none to all"
    compare_states(engines)


@pytest.mark.parametrize("first", [0, 1])
def test_a_snapshot_of_one_engine_goes_on_in_the_other(engines, first):
    begin(engines, EnvironmentTask(params={"max_timesteps": 40}), seed=30 + first)
    rng = np.random.default_rng(first)
    for _ in range(30):
        engines[first].step(rng.integers(0, FACTS.actions, ENVS))
    taken = engines[first].snapshot()
    engines[1 - first].seed(99)
    engines[1 - first].restore(taken)
    compare_states(engines)
    play(engines, 20, rng)


@pytest.mark.parametrize("world", [0, 72, 907, 1163])
def test_a_world_with_a_block_at_a_threshold_of_noise_is_the_same(engines, world):
    """Of 2048 worlds of this seed these four change where one product more is fused with a sum."""
    task = EnvironmentTask()
    for engine in engines:
        engine.set_task(task)
        engine.seed(105)
        engine._next_worlds(world)
    renewed = [np.asarray(engine.renew(np.array([3]))) for engine in engines]
    compare("observation", *(seen[3] for seen in renewed))
    jax_engine, native = engines
    compare_fields(to_native(FULL, jax_engine._state)[3:4], native.states[3:4], "")


LONG = pytest.mark.slow


@pytest.mark.parametrize(
    "round_", [pytest.param(n, marks=LONG if n > 5 else ()) for n in range(24)]
)
def test_steps_from_states_that_play_seldom_reaches_are_the_same(engines, round_):
    rng = np.random.default_rng(round_)
    begin(engines, EnvironmentTask(), seed=100 + round_)
    native = engines[1]
    drawn = native.snapshot() | {"states": scrambled(native.states, rng)}
    for engine in engines:
        engine.restore(drawn)
    play(engines, 4, rng)


def test_both_forms_show_the_same():
    compact, dense = (NativeEngine(FACTS, ENVS, form) for form in ("compact", "dense"))
    rng = np.random.default_rng(2)
    dense.reset()
    for _ in range(20):
        compact.states[:] = dense.states[:] = scrambled(dense.states, rng)
        actions = rng.integers(0, FACTS.actions, ENVS)
        short, long = compact.step(actions)[0], dense.step(actions)[0]
        compare("observation", FACTS.layout.dense(short), long)


def test_auto_reset_begins_the_new_episode_at_once():
    facts = ENVIRONMENTS["Craftax-Symbolic-AutoReset-v1"]
    engine = NativeEngine(facts, ENVS, "compact")
    engine.set_task(EnvironmentTask(start_floor=3, params={"max_timesteps": 3}))
    engine.reset()
    for count in range(1, 7):
        seen, _, done, _ = engine.step(np.zeros(ENVS, int))
        assert done.all() == (count % 3 == 0)
        compare("observation", seen, engine.renew(np.flatnonzero(done)))
        assert (engine.states["timestep"] == count % 3).all()
    assert (engine.floors() == 3).all()


def test_the_dense_observation_is_craftaxs_own(engines):
    import jax

    begin(engines, EnvironmentTask(), seed=1)
    states = scrambled(engines[1].states, np.random.default_rng(1))
    own = jax.jit(jax.vmap(shared_environment(FACTS.name).get_obs))
    expected = np.asarray(own(from_native(FULL, states, engines[0]._state)))
    actual = np.zeros((ENVS, *FACTS.observation_shape), np.float32)
    FULL.functions().observe(states.ctypes.data, ENVS, actual.ctypes.data, None)
    compare("observation", expected, actual)
