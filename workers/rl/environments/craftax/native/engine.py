"""The native engine of Craftax: a batch of games in C++, as ``engine.py`` plays them with JAX.

From the same seed both give the same observations, rewards and ends, to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.rl.environments.base import EnvironmentTask, Observations, Steps
from workers.rl.environments.craftax.batch import CraftaxBatch
from workers.rl.environments.craftax.catalog import CraftaxEnvironment
from workers.rl.environments.craftax.native.layouts import GAMES


class NativeEngine(CraftaxBatch):
    """Batched Craftax in C++, in memory of its own that numpy describes."""

    def __init__(self, facts: type[CraftaxEnvironment], num_envs: int, form: str = "dense") -> None:
        assert form in facts.native_forms, f"there is no native {facts.name} seen as {form}"
        game = GAMES[len(facts.floors)]
        self._functions = game.functions()
        is_compact = form == "compact"
        if is_compact:
            assert facts.layout is not None
            self.observation_shape = (facts.layout.width,)
            self.observation_type = np.int16
        else:
            self.observation_shape = facts.observation_shape
        self._game = game
        self._states = _aligned(num_envs, game.state)
        self._arguments = np.zeros((), game.task)
        self._observations = np.zeros((num_envs, *self.observation_shape), self.observation_type)
        self._drawn = np.zeros(num_envs, np.int32)
        self._rewards = np.zeros(num_envs, np.float32)
        self._done = np.zeros(num_envs, np.bool_)
        super().__init__(facts, num_envs)
        # Where the arrays lie is asked once, which takes as long as a step of several games.
        at = [array.ctypes.data for array in (self._states, self._arguments, self._drawn)]
        self._states_at, self._arguments_at, self._drawn_at = at
        results = (self._rewards, self._done, self._unlocked)
        self._results_at = tuple(array.ctypes.data for array in results)
        self._is_compact = is_compact
        self._own_observations = self._observations
        self._show_in(self._observations)

    @property
    def states(self) -> NDArray[Any]:
        """States of all games [N], structured by Craftax's names, in the engine's own memory.

        Floors that no one has seen yet are made by this look at them.
        """
        self._functions.complete(self._states_at, self.num_envs)
        return self._states

    def _show_in(self, memory: NDArray[Any]) -> None:
        self._observations = memory
        at = memory.ctypes.data
        self._forms = (None, at) if self._is_compact else (at, None)

    def look_into(self, memory: NDArray[Any]) -> bool:
        """Write what is seen from the next step on there."""
        own = self._own_observations
        assert memory.flags.c_contiguous, "observations are written one after the other"
        assert (memory.dtype, memory.shape) == (own.dtype, own.shape), (memory.dtype, memory.shape)
        self._show_in(memory)
        return True

    def look_away(self) -> Observations:
        """Write into the engine's own memory again; what is seen now, there."""
        self._own_observations[:] = self._observations
        self._show_in(self._own_observations)
        return self._observations

    def _load(self, states: NDArray[Any], unlocked: NDArray[np.bool_]) -> None:
        self._states[:] = states
        self._unlocked[:] = unlocked

    def set_task(self, task: EnvironmentTask) -> None:
        """Play this task from the next reset on."""
        super().set_task(task)
        arguments = self._task._asdict()
        for name in self._arguments.dtype.names or ():
            value = arguments[name]
            self._arguments[name] = tuple(value.values()) if name == "params" else value

    def seed(self, seed: int) -> None:
        """Fix all randomness from the next reset on (keys are counted from the seed)."""
        super().seed(seed)
        self._key_at = self._key.ctypes.data

    def _renew(self, indices: NDArray[np.integer]) -> None:
        chosen = np.ascontiguousarray(indices, np.int32)
        first = self._next_worlds(len(chosen))
        self._functions.renew(
            self._states_at,
            chosen.ctypes.data,
            len(chosen),
            self._key_at,
            first,
            self._arguments_at,
            *self._forms,
        )

    def step(self, actions: NDArray[np.integer]) -> Steps:
        """Advance all environments: observations, rewards, terminated; none is ever truncated.

        Observations are in the engine's own memory, which the next call writes again, or where
        ``look_into`` has them.
        """
        self._drawn[:] = actions
        if (self._drawn != actions).any():  # too large even for the compiled game to refuse
            self._refuse(actions)
        wrong = self._functions.step(
            self._states_at,
            self.num_envs,
            self._key_at,
            self._next_step(),
            self._drawn_at,
            self._arguments_at,
            self.facts.auto_reset,
            *self._results_at,
            *self._forms,
        )
        if wrong >= 0:
            self._refuse(actions)
        return self._observations, self._rewards.copy(), self._done.copy(), self._never

    def floors(self) -> NDArray[np.int64]:
        """Floor each agent stands on now [num_envs]; 0 in the classic game."""
        if len(self.facts.floors) == 1:
            return np.zeros(self.num_envs, np.int64)
        return self._states["player_level"].astype(np.int64)


def _aligned(count: int, kind: np.dtype[Any]) -> NDArray[Any]:
    """Zeros that begin at a line of the cache."""
    memory = np.zeros(count * kind.itemsize + _LINE, np.uint8)
    first = -memory.ctypes.data % _LINE
    return memory[first : first + count * kind.itemsize].view(kind)


_LINE = 64
