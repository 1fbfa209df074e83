"""Environments of gymnasium: an id, an ``Env`` class or a ``VectorEnv`` class, stepped in batches.

Episodes are begun by the caller (``AutoresetMode.DISABLED``), so that the final observation of a
truncated episode is seen. Knows no stream.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from workers.rl.environments.base import BatchedEnvironment, Environment, Observations, Steps
from workers.rl.environments.wrappers import wrapped
from workers.tables import Problem

Arguments = dict[str, Any]


class GymnasiumEnvironment(Environment):
    """One gymnasium environment with its arguments: Box or Discrete observations, Discrete actions.

    ``source``: an id of gymnasium's registry, a class of ``gymnasium.Env``, or one of
    ``gymnasium.vector.VectorEnv`` that is constructed with ``num_envs`` and leaves resets to its
    caller (metadata ``autoreset_mode = AutoresetMode.DISABLED``, ``reset(options={"reset_mask":
    ...})``). ``max_episode_steps``: time limit, at which an episode is truncated; None = the
    registry's. ``wrappers``: what is laid around it (``wrappers.WRAPPERS``). The largest return is
    the registry's ``reward_threshold``. Raises ``gymnasium.error.Error``, or what the class's own
    constructor raises.
    """

    def __init__(
        self,
        source: str | type[gym.Env[Any, Any]] | type[VectorEnv[Any, Any, Any]],
        kwargs: Arguments,
        max_episode_steps: int | None = None,
        wrappers: Sequence[Any] = (),
    ) -> None:
        self._source, self._kwargs, self._limit = source, kwargs, max_episode_steps
        self._wrappers = wrappers
        made: Any = self._vector(1)
        self.name = source if isinstance(source, str) else source.__name__
        self._mode = made.metadata.get("autoreset_mode")
        self._seen, self._does = made.single_observation_space, made.single_action_space
        if isinstance(source, str):
            registered = source.rpartition(":")[2]  # without the module that registers it
            self.largest_return = gym.spec(registered).reward_threshold
        if self.largest_return is not None and self.largest_return <= 0.0:
            self.smallest_return = None
        made.close()
        if not self.problems(""):
            read = reader(self._seen)
            self.observation_shape, self.observation_type = read.shape, read.kind
            self.actions = int(self._does.n)
            self.forms = ("pixels",) if read.kind is np.uint8 else ("dense",)

    def problems(self, path: str) -> list[Problem]:
        """Spaces and resets that cannot be trained on."""
        found = []
        if not isinstance(self._seen, gym.spaces.Box | gym.spaces.Discrete):
            what = f"{self.name!r} is observed in {type(self._seen).__name__}"
            allowed = "Box or Discrete; give wrappers: flatten, or part with the name of an entry"
            found.append(Problem(path, what, allowed))
        if not isinstance(self._does, gym.spaces.Discrete):
            what = f"{self.name!r} has actions in {type(self._does).__name__}"
            allowed = (
                "Discrete: the policy is a choice among actions, and no training here has a loss "
                "for continuous ones; give a wrapper (module:Class) that makes them discrete"
            )
            found.append(Problem(path, what, allowed))
        if self._mode is not AutoresetMode.DISABLED:
            what = f"{self.name!r} resets itself (autoreset_mode {self._mode})"
            allowed = "AutoresetMode.DISABLED: final observations of truncated episodes are needed"
            found.append(Problem(path, what, allowed))
        if self._limit is not None and self._is_vector:
            what = f"max_episode_steps = {self._limit} with the VectorEnv {self.name!r}"
            found.append(Problem(path, what, "a VectorEnv keeps its own time limit: use kwargs"))
        if self._wrappers and self._is_vector:
            what = f"wrappers around the VectorEnv {self.name!r}"
            allowed = "they are laid around single environments: wrap it in its own class"
            found.append(Problem(path, what, allowed))
        return found

    def build(self, num_envs: int, form: str = "dense") -> BatchedEnvironment:
        """``num_envs`` of it in this process."""
        return GymnasiumBatch(self._vector(num_envs))

    @property
    def _is_vector(self) -> bool:
        return not isinstance(self._source, str) and issubclass(self._source, VectorEnv)

    def _vector(self, num_envs: int) -> VectorEnv[Any, Any, Any]:
        if self._is_vector:
            made: Callable[..., Any] = self._source  # type: ignore[assignment]
            vector: VectorEnv[Any, Any, Any] = made(num_envs=num_envs, **self._kwargs)
            return vector
        return SyncVectorEnv([self._one] * num_envs, autoreset_mode=AutoresetMode.DISABLED)

    def _one(self) -> gym.Env[Any, Any]:
        if isinstance(self._source, str):
            limit: Arguments = {} if self._limit is None else {"max_episode_steps": self._limit}
            return wrapped(gym.make(self._source, **limit, **self._kwargs), self._wrappers)
        made: Callable[..., Any] = self._source
        env: gym.Env[Any, Any] = made(**self._kwargs)
        env = env if self._limit is None else gym.wrappers.TimeLimit(env, self._limit)
        return wrapped(env, self._wrappers)


class Reader:
    """Observations of a space as a model reads them: uint8 images as they are, a Discrete one as
    one-hot float32, all else as float32."""

    def __init__(self, space: gym.spaces.Box | gym.spaces.Discrete) -> None:
        self._space = space
        self.kind: type[np.generic] = np.float32
        if isinstance(space, gym.spaces.Discrete):
            self.shape: tuple[int, ...] = (int(space.n),)
            self._rows = np.eye(int(space.n), dtype=np.float32)
            return
        self.shape = tuple(space.shape) or (1,)
        if space.dtype == np.uint8 and len(self.shape) == 3:
            self.kind = np.uint8

    def __call__(self, seen: Any) -> NDArray[Any]:
        """[N, *space.shape] -> [N, *shape] in memory of its own."""
        if isinstance(self._space, gym.spaces.Discrete):
            return self._rows[np.asarray(seen) - self._space.start]
        return np.array(seen, self.kind).reshape(-1, *self.shape)


def reader(space: Any) -> Reader:
    """The reader of a space that passed ``problems``."""
    assert isinstance(space, gym.spaces.Box | gym.spaces.Discrete)
    return Reader(space)


class GymnasiumBatch(BatchedEnvironment):
    """A gymnasium VectorEnv without autoreset, stepped as a batch.

    Environment i draws from ``seed + i``; a renewed one goes on with its own generator.
    """

    def __init__(self, vector: VectorEnv[Any, Any, Any]) -> None:
        self.vector: Any = vector
        self.num_envs = vector.num_envs
        self._read = reader(vector.single_observation_space)
        self.observation_shape, self.observation_type = self._read.shape, self._read.kind
        does: Any = vector.single_action_space
        self.actions, self._first = int(does.n), does.start
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._seed: int | None = None

    def seed(self, seed: int) -> None:
        """Generators begin from this seed at the next reset."""
        self._seed = seed

    def reset(self) -> Observations:
        """A new episode everywhere."""
        seen, _ = self.vector.reset(seed=self._seed)
        self._seed = None
        self._ended[:] = False
        return self._read(seen)

    def step(self, actions: NDArray[np.integer]) -> Steps:
        """One step; environments that ended and were not renewed begin a new episode first."""
        if self._ended.any():
            self.renew(np.flatnonzero(self._ended))
        seen, rewards, terminated, truncated, _ = self.vector.step(actions + self._first)
        self._ended = terminated | truncated
        # The vector keeps its arrays and writes into them at the next step.
        ends = np.array(terminated), np.array(truncated)
        return self._read(seen), np.asarray(rewards, np.float32), *ends

    def renew(self, indices: NDArray[np.integer]) -> Observations:
        """A new episode in these environments only."""
        chosen = np.zeros(self.num_envs, np.bool_)
        chosen[indices] = True
        seen, _ = self.vector.reset(options={"reset_mask": chosen})
        self._ended = self._ended & ~chosen
        return self._read(seen)

    def picture(self) -> NDArray[np.uint8] | None:
        """What the environment renders, where it was made with render_mode = "rgb_array"."""
        if self.vector.render_mode != "rgb_array":
            return None
        seen = self.vector.render()
        return None if seen is None else np.asarray(seen[0], np.uint8)

    def close(self) -> None:
        """Close the environments."""
        self.vector.close()


def environment(
    name: str,
    kwargs: Arguments,
    max_episode_steps: int | None = None,
    wrappers: Sequence[Any] = (),
) -> Environment:
    """What is known of the environment called ``name``: an id of gymnasium (``CartPole-v1``,
    ``ale_py:ALE/Pong-v5``), or the class behind ``module:Class``.

    Raises ValueError with the reason where there is none, or where it cannot be constructed.
    """
    try:
        source = _class(name)
        if source is None:
            return GymnasiumEnvironment(name, kwargs, max_episode_steps, wrappers)
        if issubclass(source, gym.Env | VectorEnv):
            return GymnasiumEnvironment(source, kwargs, max_episode_steps, wrappers)
        if not issubclass(source, Environment):
            raise ValueError(
                f"{source.__name__} is none of workers.rl.environments.base.Environment, "
                "gymnasium.Env and gymnasium.vector.VectorEnv"
            )
        if max_episode_steps is not None:
            raise ValueError(f"{source.__name__} keeps its own time limit: give it in kwargs")
        if wrappers:
            raise ValueError(f"{source.__name__} is no gymnasium.Env: wrappers cannot hold it")
        return source(**kwargs)
    except ModuleNotFoundError as error:
        cure = "pip install 'growstage[environments]' has minigrid and ale_py"
        raise ValueError(f"{error}; {cure}") from error
    # An environment's constructor may raise anything at all.
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _class(name: str) -> type | None:
    """The class behind ``module:Class``; None where that is an id of gymnasium."""
    module, _, attribute = name.partition(":")
    if not attribute.isidentifier():
        return None
    found = getattr(importlib.import_module(module), attribute)
    if not isinstance(found, type):
        raise TypeError(f"{name} is no class")
    return found
