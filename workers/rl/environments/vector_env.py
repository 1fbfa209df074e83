"""A batched environment as a gymnasium VectorEnv, for tools that take one.

Autoreset is NEXT_STEP: the step after an end ignores that environment's action and returns the
first observation of its new episode with reward 0, as RLlib's stock runner assumes.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from workers.rl.environments.base import BatchedEnvironment


def spaces(
    observation_shape: tuple[int, ...],
    actions: int,
    observation_type: Any = np.float32,
) -> tuple[gym.spaces.Box, gym.spaces.Discrete]:
    """Observation and action space of one environment."""
    low, high = -np.inf, np.inf
    if np.issubdtype(observation_type, np.integer):
        bounds = np.iinfo(observation_type)
        low, high = bounds.min, bounds.max
    box = gym.spaces.Box(low, high, observation_shape, observation_type)
    return box, gym.spaces.Discrete(actions)


class VectorEnvironment(gym.vector.VectorEnv[Any, Any, Any]):
    """The batched environment ``engine`` behind gymnasium's interface."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012  (gymnasium's own field)

    def __init__(self, engine: BatchedEnvironment) -> None:
        self.engine = engine
        self.num_envs = engine.num_envs
        box, discrete = spaces(engine.observation_shape, engine.actions, engine.observation_type)
        self.single_observation_space, self.single_action_space = box, discrete
        self.observation_space = batch_space(box, self.num_envs)
        self.action_space = batch_space(discrete, self.num_envs)
        self._ended = np.zeros(self.num_envs, np.bool_)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin anew everywhere; of a list of seeds the first counts."""
        first = seed[0] if isinstance(seed, list) else seed
        if first is not None:
            self.engine.seed(first)
        self._ended[:] = False
        return np.array(self.engine.reset()), {}

    def step(
        self, actions: NDArray[np.integer]
    ) -> tuple[Any, Any, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """One step of all; those that ended at the last step begin anew instead."""
        observations, rewards, terminated, truncated = self.engine.step(actions)
        begun = self._ended
        if begun.any():
            observations = self.engine.renew(np.flatnonzero(begun))
            rewards = np.where(begun, np.float32(0.0), rewards)
        terminated, truncated = terminated & ~begun, truncated & ~begun
        self._ended = terminated | truncated
        return np.array(observations), np.array(rewards), terminated, truncated, {}

    def close_extras(self, **kwargs: Any) -> None:
        """Free the engine."""
        self.engine.close()
