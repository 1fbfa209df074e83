"""The JAX engine of Craftax: one vmapped step, and a reset only where an episode ended.

An auto-resetting Craftax step generates a new world for every environment at every step and
throws nearly all of them away; here a world is generated exactly when an episode ends, so no two
episodes share one. What differs between tasks (parameters, reward weights, the floor to begin
on) is an argument of the compiled programs: switching tasks compiles nothing. Knows no RLlib.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.machine import own_cache
from workers.rl.environments.base import EnvironmentTask, Steps
from workers.rl.environments.craftax import compact
from workers.rl.environments.craftax.batch import CraftaxBatch, TaskArguments, task_arguments
from workers.rl.environments.craftax.catalog import CraftaxEnvironment
from workers.rl.environments.craftax.native.game import from_native, to_native
from workers.rl.environments.craftax.native.layouts import GAMES
from workers.rl.environments.craftax.textures import keep_textures

MONSTERS_TO_CLEAR = 8
"""Kills that open the ladder of a floor in Craftax."""


class Programs(NamedTuple):
    """The compiled programs of one environment at one batch size."""

    step: Callable[..., Any]
    renew: Callable[..., Any]
    blank: Any
    """A state of zeros with the right shapes, to be renewed everywhere."""


def prepare_jax() -> Any:
    """Import JAX with compiled programs kept on disk; on the CPU where this process has no GPU.

    The user's own ``JAX_*`` variables win. Raises InputError where others could write where those
    programs are kept.
    """
    import jax

    # JAX defines its options at run time, out of a type checker's sight.
    config: Any = jax.config
    if not config.jax_compilation_cache_dir:
        folder = Path.home() / ".cache" / "growstage" / "xla"
        config.update("jax_compilation_cache_dir", str(own_cache(folder)))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if not config.jax_platforms and not _has_gpu():
        config.update("jax_platforms", "cpu")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return jax


def _has_gpu() -> bool:
    """Whether the machine has a GPU, and Ray (or the user) gave this process one."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    return Path("/dev/nvidia0").exists() and given not in ("", "-1", "NoDevFiles")


def shared_environment(name: str) -> Any:
    """The process's one Craftax object of this name, without its own auto-reset."""
    return _shared(name.replace("-AutoReset", ""))


@functools.cache
def _shared(name: str) -> Any:
    # Methods of a Craftax environment are compiled once per object.
    prepare_jax()
    if "Pixels" in name:
        keep_textures(name)
    from craftax.craftax_env import make_craftax_env_from_name

    return make_craftax_env_from_name(name, auto_reset=False)


def _traced(facts: type[CraftaxEnvironment], task: TaskArguments) -> TaskArguments:
    """The task with Craftax's own parameters; they keep their types, so none is recompiled."""
    defaults = shared_environment(facts.name).default_params
    return task._replace(params=defaults.replace(**task.params))


def _placed(state: Any, task: TaskArguments) -> Any:
    """The state with the agent on the task's floor: at its up ladder, floors above entered and
    cleared (monsters killed), one experience point per new floor."""
    import jax.numpy as jnp

    floor = task.floor
    above = jnp.arange(state.monsters_killed.shape[0]) < floor
    return state.replace(
        player_level=floor,
        player_position=jnp.where(floor > 0, state.up_ladders[floor], state.player_position),
        player_xp=state.player_xp + floor,
        monsters_killed=jnp.where(
            above, jnp.maximum(state.monsters_killed, MONSTERS_TO_CLEAR), state.monsters_killed
        ),
        achievements=state.achievements | task.unlocked,
    )


Observe = Callable[[Any], Any]
"""State of one environment -> what the agent sees."""


def _dense(environment: Any, facts: type[CraftaxEnvironment]) -> Observe:
    observe: Observe = environment.get_obs
    return observe


def _compact(environment: Any, facts: type[CraftaxEnvironment]) -> Observe:
    many = len(facts.floors) > 1
    return (compact.full if many else compact.classic)(environment)


def _pixels(environment: Any, facts: type[CraftaxEnvironment]) -> Observe:
    import jax.numpy as jnp

    return lambda state: jnp.round(environment.get_obs(state) * 255.0).astype(jnp.uint8)


FORMS = {"dense": _dense, "compact": _compact, "pixels": _pixels}


def _world_function(environment: Any, facts: type[CraftaxEnvironment]) -> Callable[..., Any]:
    """A new world with the agent where the task begins."""
    has_floors = len(facts.floors) > 1

    def world(key: Any, task: TaskArguments) -> Any:
        _, fresh = environment.reset_env(key, task.params)
        return _placed(fresh, task) if has_floors else fresh

    return world


def _step_function(
    environment: Any, facts: type[CraftaxEnvironment], observe: Observe, num_envs: int
) -> Callable[..., Any]:
    import jax
    import jax.numpy as jnp

    world = _world_function(environment, facts)

    def one(key: Any, state: Any, action: Any, task: TaskArguments) -> Any:
        before, health = state.achievements, state.player_health
        _, state, _, done, _ = environment.step_env(key, state, action, task.params)
        unlocked = state.achievements
        gained = unlocked.astype(jnp.float32) - before.astype(jnp.float32)
        reward = (gained * task.weights).sum() + task.health * (state.player_health - health)
        if facts.auto_reset:
            fresh = world(jax.random.fold_in(key, 1), task)
            state = jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, state)
        return observe(state), state, reward.astype(jnp.float32), done, unlocked

    def step(state: Any, key: Any, count: Any, actions: Any, task: TaskArguments) -> Any:
        keys = jax.random.split(jax.random.fold_in(key, count), num_envs)
        return jax.vmap(one, in_axes=(0, 0, 0, None))(keys, state, actions, task)

    return step


def _renew_function(
    environment: Any, facts: type[CraftaxEnvironment], observe: Observe
) -> Callable[..., Any]:
    import jax

    world = _world_function(environment, facts)

    def renew(
        state: Any, observations: Any, key: Any, count: Any, index: Any, task: TaskArguments
    ) -> Any:
        fresh = world(jax.random.fold_in(key, count), task)
        state = jax.tree.map(lambda all_, one: all_.at[index].set(one), state, fresh)
        return state, observations.at[index].set(observe(fresh))

    return renew


@functools.cache
def programs(facts: type[CraftaxEnvironment], num_envs: int, form: str) -> Programs:
    """Both programs, compiled side by side (seconds; from the disk cache a fraction of it)."""
    jax = prepare_jax()
    environment = shared_environment(facts.name)
    observe = FORMS[form](environment, facts)
    task = _traced(facts, task_arguments(facts, EnvironmentTask()))
    key, count = np.zeros(2, np.uint32), np.uint32(0)

    def first(key: Any) -> Any:
        state = environment.reset_env(key, task.params)[1]
        return observe(state), state

    observations, blank = jax.tree.map(
        lambda leaf: np.zeros((num_envs, *leaf.shape), leaf.dtype), jax.eval_shape(first, key)
    )
    step = jax.jit(_step_function(environment, facts, observe, num_envs), donate_argnums=(0,))
    renew = jax.jit(_renew_function(environment, facts, observe), donate_argnums=(0, 1))
    actions = np.zeros(num_envs, np.int32)
    lowered = (
        step.lower(blank, key, count, actions, task),
        renew.lower(blank, observations, key, count, np.int32(0), task),
    )
    with ThreadPoolExecutor(len(lowered)) as pool:
        compiled = list(pool.map(lambda program: program.compile(), lowered))
    return Programs(compiled[0], compiled[1], (blank, observations))


class CraftaxEngine(CraftaxBatch):
    """Batched Craftax with exact lazy resets, everything compiled when it is constructed."""

    def __init__(self, facts: type[CraftaxEnvironment], num_envs: int, form: str = "dense") -> None:
        self._game = GAMES[len(facts.floors)]
        self._programs = programs(facts, num_envs, form)
        self._state, self._observations = self._programs.blank
        self.observation_shape = self._observations.shape[1:]
        self.observation_type = self._observations.dtype.type
        super().__init__(facts, num_envs)

    def set_task(self, task: EnvironmentTask) -> None:
        """Play this task from the next reset on."""
        super().set_task(task)
        self._task = _traced(self.facts, self._task)

    def _renew(self, indices: NDArray[np.integer]) -> None:
        for index in indices:
            self._state, self._observations = self._programs.renew(
                self._state,
                self._observations,
                self._key,
                np.uint32(self._next_worlds(1)),
                np.int32(index),
                self._task,
            )

    def step(self, actions: NDArray[np.integer]) -> Steps:
        """Advance all environments: observations (on the device), rewards, terminated; none is
        ever truncated."""
        self._refuse(actions)
        self._observations, self._state, rewards, done, self._unlocked = self._programs.step(
            self._state,
            self._key,
            np.uint32(self._next_step()),
            np.asarray(actions, np.int32),
            self._task,
        )
        return self._observations, np.asarray(rewards), np.asarray(done), self._never

    @property
    def states(self) -> NDArray[Any]:
        """States of all games [N], structured by Craftax's names: a copy."""
        return to_native(self._game, self._state)

    def _load(self, states: NDArray[Any], unlocked: NDArray[np.bool_]) -> None:
        self._state = from_native(self._game, states, self._state)
        self._unlocked = unlocked.copy()

    def _shown(self, observations: NDArray[Any]) -> Any:
        return observations.copy()

    def floors(self) -> NDArray[np.int64]:
        """Floor each agent stands on now [num_envs]; 0 in the classic game."""
        if len(self.facts.floors) == 1:
            return np.zeros(self.num_envs, np.int64)
        return np.asarray(self._state.player_level).astype(np.int64)
