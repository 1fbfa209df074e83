"""The contract of environments: facts before they are built, and batches stepped together.

Knows neither JAX nor RLlib. Letters: N environments stepped together.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.compact_layout import Compact
from workers.tables import Problem

Observations = Any
"""float32 numbers, int16 compact form or uint8 pixels [N, *observation_shape]: an array of numpy
or of the engine's own library, where the engine keeps it; ``workers.rl.dlpack`` reads either
without a copy."""
Steps = tuple[Observations, NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]
"""Observations, rewards [N], terminated [N], truncated [N]."""
ACHIEVEMENT = "achievement/"
"""Prefix of the figure that says whether an episode earned an achievement (0 or 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentTask:
    """What a Craftax environment is set to for one task: all of it may change without a build."""

    start_floor: int = 0
    achievements: tuple[str, ...] = ()
    """Only these are rewarded; empty means the environment's own reward, health included."""
    params: dict[str, int | float | bool] = field(default_factory=dict)


class BatchedEnvironment(ABC):
    """N environments advanced by one call; the caller says which ones begin a new episode.

    An episode ends ``terminated`` (its end belongs to the task: no reward can follow) or
    ``truncated`` (it was cut off from outside, as by a time limit: the return that would have
    followed is estimated by the critic from the observation of that step). Where both hold,
    terminated counts. An ended environment waits for ``renew``; it may be stepped before that,
    but what it then gives means nothing.
    """

    num_envs: int
    """N."""
    observation_shape: tuple[int, ...]
    """Of one observation in the form in which it was built."""
    observation_type: type[np.generic] = np.float32
    actions: int
    """Number of actions, which are counted from 0."""

    def set_task(self, task: Any) -> None:  # noqa: B027  (an environment may know one task only)
        """Play this task (``EnvironmentStream.setting``) from the next reset on."""

    @abstractmethod
    def seed(self, seed: int) -> None:
        """Fix all randomness from the next reset on; 0 <= seed < 2**31."""

    @abstractmethod
    def reset(self) -> Observations:
        """Begin a new episode everywhere; the observations are valid until the next call."""

    @abstractmethod
    def step(self, actions: NDArray[np.integer]) -> Steps:
        """Advance all by one action each [N]; an ended episode gives its final observation."""

    @abstractmethod
    def renew(self, indices: NDArray[np.integer]) -> Observations:
        """Begin a new episode in these environments only; observations of all N."""

    def look_into(self, memory: NDArray[Any]) -> bool:
        """Write what is seen from the next step on into ``memory`` [N, *observation_shape], so
        that nothing need be copied; False where it cannot, and goes on as before."""
        return False

    def look_away(self) -> Observations:
        """Write into memory of its own again, after ``look_into``; what is seen now, there."""
        raise NotImplementedError(f"{type(self).__name__} looks into no other memory")

    def floors(self) -> NDArray[np.int64]:
        """Place of each environment in its game [N], by which routing is told apart; 0 where
        there is but one."""
        return np.zeros(self.num_envs, np.int64)

    def picture(self) -> NDArray[np.uint8] | None:
        """Environment 0 as a person would see it now, [H, W, 3]; None where it cannot be drawn."""
        return None

    def outcome(self, index: int) -> dict[str, float]:
        """Figures of the episode that just ended there, before ``renew``; the same names always."""
        return {}

    def close(self) -> None:  # noqa: B027  (most hold nothing)
        """Free what it holds."""


class Environment(ABC):
    """What is known of an environment before it is built, and how it is built.

    An entry of ENVIRONMENTS, or ``module:Class``. A stream of kind ``environments`` constructs it
    from a task's ``kwargs``, so facts may be attributes of the class or set by ``__init__``. All
    tasks of a stream share one model, so observations and actions must be the same in all.
    """

    observation_shape: tuple[int, ...]
    """Of one observation in its longest form, by which a model is built."""
    actions: int
    """Number of discrete actions."""
    forms: tuple[str, ...] = ("dense",)
    """Forms in which it can be observed, the shortest first: dense (float32), pixels (uint8),
    compact (int16, read by ``layout``)."""
    layout: Compact | None = None
    """Layout of the compact form, where there is one."""
    largest_return: float | None = None
    """Return of an episode that scores 1; None = each task must give it."""
    smallest_return: float | None = 0.0
    """Return of an episode that scores 0; None = each task must give it."""

    def problems(self, path: str) -> list[Problem]:
        """Why it cannot be trained on; builds nothing that takes long."""
        return []

    @abstractmethod
    def build(self, num_envs: int, form: str = "dense") -> BatchedEnvironment:
        """``num_envs`` of it, observed in this form."""


@dataclass(frozen=True, slots=True)
class Episode:
    """A finished episode: its return, its length in steps, the environment's own figures."""

    index: int
    """Environment it was played in."""
    total: float
    """Sum of its rewards, without discount."""
    length: int
    outcome: dict[str, float]
    truncated: bool = False
    """Whether it was cut off rather than terminated."""


class EpisodeLog:
    """Adds up rewards and steps of each environment and closes episodes as they end."""

    def __init__(self, num_envs: int) -> None:
        self._total = np.zeros(num_envs, np.float64)
        self._length = np.zeros(num_envs, np.int64)

    def add(
        self,
        environment: BatchedEnvironment,
        rewards: NDArray[np.float32],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
    ) -> list[Episode]:
        """Episodes that ended with this step; call before the environment renews them."""
        self._total += rewards
        self._length += 1
        ended = terminated | truncated
        if not ended.any():
            return []
        episodes = [
            Episode(
                index=int(i),
                total=float(self._total[i]),
                length=int(self._length[i]),
                outcome=environment.outcome(int(i)),
                truncated=not terminated[i],
            )
            for i in np.flatnonzero(ended)
        ]
        self._total[ended] = 0.0
        self._length[ended] = 0
        return episodes

    def clear(self) -> None:
        """Forget the running episodes."""
        self._total[:] = 0.0
        self._length[:] = 0


def summary(episodes: Sequence[Episode], largest: float, smallest: float = 0.0) -> dict[str, float]:
    """Means over finished episodes; where none finished, only their number (0).

    ``return_share``: the mean return's place between ``smallest`` (0) and ``largest`` (1).
    """
    if not episodes:
        return {"episodes": 0.0}
    count = len(episodes)
    mean = sum(episode.total for episode in episodes) / count
    figures = {
        "return_share": (mean - smallest) / (largest - smallest),
        "return": mean,
        "episodes": float(count),
        "episode_length": sum(episode.length for episode in episodes) / count,
        "truncated": sum(episode.truncated for episode in episodes) / count,
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
