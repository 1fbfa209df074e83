"""A batch of environments stepped together, as the RL lane sees it, and its finished episodes.

Knows neither JAX nor RLlib: any engine that keeps the protocol can be trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Observations = Any
"""float32 numbers, int16 short form or uint8 pixels: an array of numpy or of the engine's own
library, where the engine keeps it; ``workers.rl.dlpack`` reads either without a copy."""
ACHIEVEMENT = "achievement/"
"""Prefix of the figure that says whether an episode earned an achievement (0 or 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentTask:
    """What an environment is set to for one task: all of it may change without a new build."""

    start_floor: int = 0
    achievements: tuple[str, ...] = ()
    """Only these are rewarded; empty means the environment's own reward, health included."""
    params: dict[str, int | float | bool] = field(default_factory=dict)


class BatchedEnvironment(Protocol):
    """``num_envs`` environments advanced by one call; the caller says which ones begin anew."""

    num_envs: int
    observation_shape: tuple[int, ...]
    """Of one observation in the form the engine gives it."""
    observation_type: type[np.generic]
    actions: int

    def set_task(self, task: EnvironmentTask) -> None:
        """Play this task from the next reset on."""

    def seed(self, seed: int) -> None:
        """Fix all randomness from the next reset on."""

    def reset(self) -> Observations:
        """Begin a new episode everywhere; observations [num_envs, ...], valid until the next
        call."""

    def step(
        self, actions: NDArray[np.integer]
    ) -> tuple[Observations, NDArray[np.float32], NDArray[np.bool_]]:
        """Observations, rewards and ends after one step; ended ones wait for ``renew``."""

    def renew(self, indices: NDArray[np.integer]) -> Observations:
        """Begin a new episode in these environments only; observations of all of them."""

    def floors(self) -> NDArray[np.int64]:
        """Floor (stage of the game) of each environment now [num_envs]; 0 where there is one."""

    def outcome(self, index: int) -> dict[str, float]:
        """Figures of the episode that just ended there (achievements, floor), before renew."""


@dataclass(frozen=True, slots=True)
class Episode:
    """A finished episode: its return, its length in steps, the environment's own figures."""

    index: int
    total: float
    length: int
    outcome: dict[str, float]


class EpisodeLog:
    """Adds up rewards and steps of each environment and closes episodes as they end."""

    def __init__(self, num_envs: int) -> None:
        self._total = np.zeros(num_envs, np.float64)
        self._length = np.zeros(num_envs, np.int64)

    def add(
        self,
        environment: BatchedEnvironment,
        rewards: NDArray[np.float32],
        done: NDArray[np.bool_],
    ) -> list[Episode]:
        """Episodes that ended with this step; call before the environment renews them."""
        self._total += rewards
        self._length += 1
        if not done.any():
            return []
        ended = [
            Episode(
                int(i), float(self._total[i]), int(self._length[i]), environment.outcome(int(i))
            )
            for i in np.flatnonzero(done)
        ]
        self._total[done] = 0.0
        self._length[done] = 0
        return ended

    def clear(self) -> None:
        """Forget the running episodes."""
        self._total[:] = 0.0
        self._length[:] = 0


def summary(episodes: Sequence[Episode], largest: float) -> dict[str, float]:
    """Means over finished episodes; where none finished, only their number (0)."""
    if not episodes:
        return {"episodes": 0.0}
    count = len(episodes)
    mean = sum(episode.total for episode in episodes) / count
    figures = {
        "return_share": mean / largest,
        "return": mean,
        "episodes": float(count),
        "episode_length": sum(episode.length for episode in episodes) / count,
    }
    for name in episodes[0].outcome:
        figures[name] = sum(episode.outcome[name] for episode in episodes) / count
    if "floor" in figures:
        figures["deepest_floor"] = max(episode.outcome["floor"] for episode in episodes)
    rates = [value for name, value in figures.items() if name.startswith(ACHIEVEMENT)]
    if rates:
        figures["geometric_score"] = geometric_score(rates)
    return figures


def geometric_score(rates: Sequence[float]) -> float:
    """``exp(mean ln(1 + s)) - 1`` of success rates s in per cent (Crafter, arXiv 2109.06780)."""
    return math.expm1(sum(math.log1p(100.0 * rate) for rate in rates) / len(rates))
