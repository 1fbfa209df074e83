"""Wrappers of gymnasium environments by name: what a task lays around one before it is observed.

Observations of many environments are dictionaries, or images larger than a small network wants.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Env = gym.Env[Any, Any]


class Part(gym.ObservationWrapper[Any, Any, Any]):
    """One entry of an observation that is a dictionary: ``name``."""

    def __init__(self, env: Env, name: str) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, gym.spaces.Dict) or name not in space.spaces:
            known = sorted(space.spaces) if isinstance(space, gym.spaces.Dict) else [str(space)]
            raise ValueError(f"part: no entry {name!r} to take; allowed: {', '.join(known)}")
        self.observation_space, self._name = space[name], name

    def observation(self, observation: Any) -> Any:
        """The entry."""
        return observation[self._name]


class Shrink(gym.ObservationWrapper[Any, Any, Any]):
    """An image uint8 [H, W, C] -> its means over ``factor`` x ``factor`` pixels, rows and columns
    that fill no such square left out; ``grey``: the mean over channels too."""

    def __init__(self, env: Env, factor: int, grey: bool = False) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 3:
            raise ValueError(f"shrink: needs images [H, W, C], got {space}")
        height, width, channels = space.shape
        if not 1 <= factor <= min(height, width):
            raise ValueError(f"shrink: factor = {factor} must be 1 to {min(height, width)}")
        self._factor, self._grey = factor, grey
        shape = (height // factor, width // factor, 1 if grey else channels)
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)

    def observation(self, observation: Any) -> NDArray[np.uint8]:
        """[H, W, C] -> [H // factor, W // factor, C or 1]."""
        side, (height, width, channels) = self._factor, np.shape(observation)
        rows, columns = height // side, width // side
        squares = np.asarray(observation)[: rows * side, : columns * side]
        squares = squares.reshape(rows, side, columns, side, channels)
        over = (1, 3, 4) if self._grey else (1, 3)
        seen = squares.mean(axis=over).reshape(rows, columns, -1)
        return seen.astype(np.uint8)


class Attributes(gym.Wrapper[Any, Any, Any, Any]):
    """Sets attributes of the environment itself: the constants of its physics, such as
    ``gravity`` of CartPole. What it derives from them when it is made must be given too (its
    ``polemass_length`` with ``length``)."""

    def __init__(self, env: Env, **values: Any) -> None:
        super().__init__(env)
        for name, value in values.items():
            if not hasattr(env.unwrapped, name):
                raise ValueError(f"attributes: {type(env.unwrapped).__name__} has no {name!r}")
            setattr(env.unwrapped, name, value)


WRAPPERS: dict[str, str] = {
    "attributes": "workers.rl.environments.wrappers:Attributes",
    "part": "workers.rl.environments.wrappers:Part",
    "shrink": "workers.rl.environments.wrappers:Shrink",
    "flatten": "gymnasium.wrappers:FlattenObservation",
    "stack": "gymnasium.wrappers:FrameStackObservation",
    "grey": "gymnasium.wrappers:GrayscaleObservation",
    "one_hot_view": "minigrid.wrappers:OneHotPartialObsWrapper",
    "whole_view": "minigrid.wrappers:FullyObsWrapper",
}
"""Name -> ``module:Class``, a ``gymnasium.Wrapper`` constructed with the environment and the rest
of its table; another ``module:Class`` may be named as well."""


def wrapped(env: Env, chosen: Sequence[Any]) -> Env:
    """The environment inside the wrappers, the first one innermost: each a name, or a table with
    ``kind`` and what the class is constructed with.

    Raises ValueError where one is unknown, and what its constructor raises.
    """
    for entry in chosen:
        given = dict(entry) if isinstance(entry, Mapping) else {"kind": entry}
        env = _class(given.pop("kind", None))(env, **given)
    return env


def _class(name: Any) -> Any:
    module, colon, attribute = str(WRAPPERS.get(name, name)).partition(":")
    if not colon:
        raise ValueError(
            f"no wrapper {name!r}; allowed: {', '.join(WRAPPERS)}, or module:Class, a name or a "
            "table with kind"
        )
    return getattr(importlib.import_module(module), attribute)
