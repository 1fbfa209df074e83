"""What the engines of Craftax have in common: what a task means, how keys are counted, outcomes.

Knows neither JAX nor the compiled games.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.rl.environments.base import (
    ACHIEVEMENT,
    BatchedEnvironment,
    EnvironmentTask,
    Observations,
)
from workers.rl.environments.craftax.catalog import CraftaxEnvironment
from workers.rl.environments.craftax.drawing import picture
from workers.rl.environments.craftax.native.game import check
from workers.rl.environments.craftax.native.layouts import GAMES


class TaskArguments(NamedTuple):
    """One task as arguments of an engine's programs."""

    params: Any
    """Parameters of the game: a dictionary by name, or what the engine makes of it."""
    weights: NDArray[np.float32]
    """Reward of each achievement [A]."""
    health: np.float32
    """Reward of one point of health."""
    floor: np.int32
    unlocked: NDArray[np.bool_]
    """Achievements the agent begins with [A]."""


def task_arguments(facts: type[CraftaxEnvironment], task: EnvironmentTask) -> TaskArguments:
    """The task as arguments; parameters that it leaves out have their defaults."""
    own = {name: type(facts.params[name])(value) for name, value in task.params.items()}
    listed = task.achievements or facts.achievements
    begun = facts.unlocked_at(task.start_floor)
    return TaskArguments(
        params={**facts.params, **own},
        weights=np.array(
            [
                reward if name in listed else 0.0
                for name, reward in zip(facts.achievements, facts.rewards, strict=True)
            ],
            np.float32,
        ),
        health=np.float32(0.0 if task.achievements else 0.1),
        floor=np.int32(task.start_floor),
        unlocked=np.array([name in begun for name in facts.achievements], np.bool_),
    )


class CraftaxBatch(BatchedEnvironment):
    """A batch of games. Steps draw from even counts under the seed's key and worlds from odd
    ones, so they never share a key."""

    _observations: Any
    """Of all environments now [N, ...], in the engine's own memory."""

    def __init__(self, facts: type[CraftaxEnvironment], num_envs: int) -> None:
        self.facts = facts
        self.num_envs = num_envs
        self.actions = facts.actions
        self._tiers = {name: list(chosen) for name, chosen in facts.tiers().items()}
        self._never = np.zeros(num_envs, np.bool_)
        self._unlocked: NDArray[np.bool_] = np.zeros((num_envs, len(facts.achievements)), bool)
        self.set_task(EnvironmentTask())
        self.seed(0)

    def set_task(self, task: EnvironmentTask) -> None:
        """Play this task from the next reset on."""
        self._task = task_arguments(self.facts, task)

    def seed(self, seed: int) -> None:
        """Fix all randomness from the next reset on (keys are counted from the seed)."""
        self._key = np.array([0, seed], np.uint32)
        self._steps = self._worlds = 0

    def reset(self) -> Observations:
        """A new world in every environment; observations [num_envs, ...]."""
        self._renew(np.arange(self.num_envs))
        return self._observations

    def renew(self, indices: NDArray[np.integer]) -> Observations:
        """A new world in these environments only; observations of all [num_envs, ...]."""
        if not self.facts.auto_reset:
            self._renew(indices)
        return self._observations

    @abstractmethod
    def _renew(self, indices: NDArray[np.integer]) -> None:
        """A new world in these environments, under the counts that are next."""

    @property
    @abstractmethod
    def states(self) -> NDArray[Any]:
        """States of all games [N], structured by Craftax's names (``native.layouts``)."""

    @abstractmethod
    def _load(self, states: NDArray[Any], unlocked: NDArray[np.bool_]) -> None:
        """Go on from these states, and what their last episodes had achieved."""

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """All that the games go on from but their task, as copies: arrays by name, for
        ``numpy.savez``. Both engines give, and take, the same ones."""
        return {
            "states": self.states.copy(),
            "observations": np.array(self._observations),
            "unlocked": np.array(self._unlocked),
            "key": self._key.copy(),
            "counts": np.array([self._steps, self._worlds], np.int64),
        }

    def restore(self, snapshot: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a snapshot of as many games in the same form; set the task first.

        Raises ValueError where it holds what no game can.
        """
        now = self.snapshot()
        if missing := sorted(set(now) - set(snapshot)):
            raise ValueError(f"the snapshot has no {', '.join(missing)}; give a whole one")
        for name, own in now.items():
            given = snapshot[name]
            if (given.dtype, given.shape) != (own.dtype, own.shape):
                raise ValueError(
                    f"the snapshot's {name} are {given.dtype} {given.shape}; allowed here: "
                    f"{own.dtype} {own.shape}, the same game, number and form"
                )
        check(GAMES[len(self.facts.floors)], snapshot["states"])
        if snapshot["counts"].min() < 0:
            raise ValueError("the snapshot's counts are below 0; allowed: 0 or more")
        self._load(snapshot["states"], snapshot["unlocked"].view(np.uint8) != 0)
        self._observations = self._shown(snapshot["observations"])
        self._key[:] = snapshot["key"]
        self._steps, self._worlds = (int(count) for count in snapshot["counts"])

    def _shown(self, observations: NDArray[Any]) -> Any:
        """The observations in the engine's own memory."""
        self._observations[:] = observations
        return self._observations

    def _refuse(self, actions: NDArray[np.integer]) -> None:
        """Raise ValueError where there is no such action."""
        wrong = np.flatnonzero((actions < 0) | (actions >= self.actions))
        if len(wrong):
            raise ValueError(
                f"environment {wrong[0]} was given action {actions[wrong[0]]}; allowed: 0 to "
                f"{self.actions - 1}"
            )

    def _next_step(self) -> int:
        """The count of this step, of 32 bits."""
        self._steps += 1
        return 2 * (self._steps - 1) % 2**32

    def _next_worlds(self, number: int) -> int:
        """The count of the first of so many worlds; that of each next is two more."""
        self._worlds += number
        return (2 * (self._worlds - number) + 1) % 2**32

    def picture(self) -> NDArray[np.uint8] | None:
        """What the agent of environment 0 sees: its pixels, or drawn from its numbers."""
        seen = np.asarray(self._observations[0])
        if seen.ndim == 3:
            return seen if seen.dtype == np.uint8 else (seen * 255).astype(np.uint8)
        if self.observation_type is np.int16:
            assert self.facts.layout is not None
            seen = self.facts.layout.dense(seen[None])[0]
        return picture(seen)

    def outcome(self, index: int) -> dict[str, float]:
        """Achievements earned in the episode, by name, by tier and in all; its deepest floor."""
        facts = self.facts
        unlocked = np.asarray(self._unlocked)[index]
        earned = unlocked & ~self._task.unlocked
        figures = {"achievements": float(earned.sum())}
        figures |= {
            f"tier_{name}": float(earned[chosen].mean()) for name, chosen in self._tiers.items()
        }
        if len(facts.floors) > 1:
            figures["floor"] = float(facts.deepest_floor(unlocked))
        names = zip(facts.achievements, earned.tolist(), strict=True)
        return figures | {f"{ACHIEVEMENT}{name}": float(got) for name, got in names}
