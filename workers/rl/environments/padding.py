"""Environments of different sizes behind one: observations with zeros after them, actions folded.

So that one model plays tasks that were not made for each other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.rl.environments.base import BatchedEnvironment, Environment, Observations, Steps


class Padded(Environment):
    """An environment of vectors as a larger one: ``width`` numbers observed, ``actions`` to choose.

    Numbers after its own are 0; of its n actions, action a is a modulo n, so that a policy that
    chooses at random still plays all of them.
    """

    def __init__(self, inner: Environment, width: int, actions: int) -> None:
        self.inner, self.actions = inner, actions
        self.observation_shape = (width,)
        self.largest_return, self.smallest_return = inner.largest_return, inner.smallest_return

    def build(self, num_envs: int, form: str = "dense") -> BatchedEnvironment:
        """``num_envs`` of it."""
        (width,) = self.observation_shape
        return PaddedBatch(self.inner.build(num_envs, form), width, self.actions)


class PaddedBatch(BatchedEnvironment):
    """A batch of ``Padded``."""

    def __init__(self, inner: BatchedEnvironment, width: int, actions: int) -> None:
        self.inner, self.actions = inner, actions
        self.num_envs, self.observation_shape = inner.num_envs, (width,)

    def set_task(self, task: Any) -> None:
        """Of the environment inside."""
        self.inner.set_task(task)

    def seed(self, seed: int) -> None:
        """Of the environment inside."""
        self.inner.seed(seed)

    def reset(self) -> Observations:
        """float32 [N, width]."""
        return self._widened(self.inner.reset())

    def step(self, actions: NDArray[np.integer]) -> Steps:
        """``actions`` [N] below ``self.actions``."""
        seen, rewards, terminated, truncated = self.inner.step(actions % self.inner.actions)
        return self._widened(seen), rewards, terminated, truncated

    def renew(self, indices: NDArray[np.integer]) -> Observations:
        """float32 [N, width]."""
        return self._widened(self.inner.renew(indices))

    def floors(self) -> NDArray[np.int64]:
        """Of the environment inside."""
        return self.inner.floors()

    def outcome(self, index: int) -> dict[str, float]:
        """Of the environment inside."""
        return self.inner.outcome(index)

    def close(self) -> None:
        """Free the environment inside."""
        self.inner.close()

    def _widened(self, seen: Observations) -> NDArray[np.float32]:
        own = np.asarray(seen, np.float32)
        wide = np.zeros((self.num_envs, *self.observation_shape), np.float32)
        wide[:, : own.shape[1]] = own
        return wide
