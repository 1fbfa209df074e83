"""The native engine of Craftax: a batch of games in C++, as ``engine.py`` plays them with JAX.

From the same seed both give the same observations, rewards and ends, to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.rl.environments.base import EnvironmentTask, Steps
from workers.rl.environments.craftax.batch import CraftaxBatch
from workers.rl.environments.craftax.catalog import CraftaxEnvironment
from workers.rl.environments.craftax.native.classic import CLASSIC
from workers.rl.environments.craftax.native.full import FULL
from workers.rl.environments.craftax.native.game import Game

GAMES: dict[int, Game] = {1: CLASSIC, 9: FULL}
"""By the number of floors."""


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
        self.states = _aligned(num_envs, game.state)
        self._arguments = np.zeros((), game.task)
        self._observations = np.zeros((num_envs, *self.observation_shape), self.observation_type)
        self._drawn = np.zeros(num_envs, np.int32)
        self._rewards = np.zeros(num_envs, np.float32)
        self._done = np.zeros(num_envs, np.bool_)
        super().__init__(facts, num_envs)
        # Where the arrays lie is asked once, which takes as long as a step of several games.
        at = [array.ctypes.data for array in (self.states, self._arguments, self._drawn)]
        self._states_at, self._arguments_at, self._drawn_at = at
        observed = self._observations.ctypes.data
        forms = (None, observed) if is_compact else (observed, None)
        results = (self._rewards, self._done, self._unlocked)
        self._results_at = (*(array.ctypes.data for array in results), *forms)
        self._forms = forms

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

        Observations are in the engine's own memory, which the next call writes again.
        """
        self._drawn[:] = actions
        wrong = self._functions.step(
            self._states_at,
            self.num_envs,
            self._key_at,
            self._next_step(),
            self._drawn_at,
            self._arguments_at,
            self.facts.auto_reset,
            *self._results_at,
        )
        if wrong >= 0:
            raise ValueError(
                f"environment {wrong} was given action {actions[wrong]}; allowed: 0 to "
                f"{self.actions - 1}"
            )
        return self._observations, self._rewards.copy(), self._done.copy(), self._never

    def floors(self) -> NDArray[np.int64]:
        """Floor each agent stands on now [num_envs]; 0 in the classic game."""
        if len(self.facts.floors) == 1:
            return np.zeros(self.num_envs, np.int64)
        return self.states["player_level"].astype(np.int64)


def _aligned(count: int, kind: np.dtype[Any]) -> NDArray[Any]:
    """Zeros that begin at a line of the cache."""
    memory = np.zeros(count * kind.itemsize + _LINE, np.uint8)
    first = -memory.ctypes.data % _LINE
    return memory[first : first + count * kind.itemsize].view(kind)


_LINE = 64
