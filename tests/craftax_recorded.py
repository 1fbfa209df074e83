"""A recorded play of the full game: what Craftax itself did, so that the compiled game can be held
against it where Craftax is not compiled.

    python -m tests.craftax_recorded

plays it with Craftax's own programs (the JAX engine, compiled for minutes) and writes the file.
Nothing in it is drawn anew by who reads it: it holds seeds, tasks, the states that parts begin
from, all actions, and of every step a checksum (CRC-32) of each field of the state, of the
observations, the rewards and the ends.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.craftax_full_states import purposeful, scrambled
from workers.rl import ENVIRONMENTS
from workers.rl.environments.base import EnvironmentTask

FILE = Path(__file__).parent / "recorded" / "craftax_full.npz"
FACTS = ENVIRONMENTS["Craftax-Symbolic-v1"]
ENVS, FORM = 16, "compact"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Steps without a break."""

    seed: int
    steps: int
    task: EnvironmentTask = field(default_factory=EnvironmentTask)
    scrambled: bool = False
    """Whether it begins in states that play seldom reaches, instead of new worlds."""


SCRIPT = (
    Part(seed=101, steps=50, task=EnvironmentTask(params={"max_timesteps": 20})),
    *(Part(seed=110 + floor, steps=10, task=EnvironmentTask(start_floor=floor))
      for floor in range(1, 9)),
    Part(seed=120, steps=30, task=EnvironmentTask(
        start_floor=3, achievements=("collect_wood", "eat_snail"),
        params={"god_mode": True, "day_length": 17, "max_attribute": 3})),
    *(Part(seed=130 + number, steps=12, scrambled=True) for number in range(11)),
)  # fmt: skip


def play(
    engine: Any,
    part: Part,
    start: Callable[[NDArray[Any]], NDArray[Any]],
    choose: Callable[[NDArray[Any]], NDArray[Any]],
) -> Iterator[dict[str, int]]:
    """Checksums by field, of the beginning and of each step; ended games begin anew.

    ``start`` makes a scrambled part's states [N] of new ones, ``choose`` actions [N] of states.
    """
    engine.set_task(part.task)
    engine.seed(part.seed)
    engine.reset()
    if part.scrambled:
        engine.restore(engine.snapshot() | {"states": start(engine.states)})
    found = _checksums(engine, {})
    yield found
    for _ in range(part.steps):
        _, rewards, ended, _ = engine.step(choose(engine.states))
        found = _checksums(engine, {})
        found["reward"] = zlib.crc32(np.ascontiguousarray(rewards).tobytes())
        found["terminated"] = zlib.crc32(np.ascontiguousarray(ended).tobytes())
        if ended.any():
            engine.renew(np.flatnonzero(ended))
            found = _checksums(engine, found)
        yield found


def _checksums(engine: Any, before: dict[str, int]) -> dict[str, int]:
    """Of all fields and the observations, going on from those ``before``."""
    seen = {**dict(_leaves(engine.states, "")), "observation": np.asarray(engine._observations)}
    return before | {
        name: zlib.crc32(np.ascontiguousarray(values).tobytes(), before.get(name, 0))
        for name, values in seen.items()
    }


def _leaves(states: NDArray[Any], prefix: str) -> Iterator[tuple[str, NDArray[Any]]]:
    for name in states.dtype.names or ():
        if states[name].dtype.names:
            yield from _leaves(states[name], f"{prefix}{name}.")
        else:
            yield prefix + name, states[name]


def _bytes(states: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(states).view(np.uint8).reshape(len(states), -1)


class Recording:
    """What the file holds."""

    def __init__(self, path: Path = FILE) -> None:
        with np.load(path) as held:
            self._held = dict(held)
        told = json.loads(bytes(self._held["told"]))
        self.fields: list[str] = told["fields"]
        self.parts = [
            Part(**{**part, "task": EnvironmentTask(**part["task"])}) for part in told["parts"]
        ]

    def actions(self, number: int) -> NDArray[np.uint8]:
        """Of a part [steps, N]."""
        return self._held[f"actions{number}"]

    def checksums(self, number: int) -> Iterator[dict[str, int]]:
        """Of a part, as ``play`` gives them."""
        for row in self._held[f"checksums{number}"].tolist():
            yield dict(zip(self.fields, row, strict=True))

    def play(self, engine: Any, number: int) -> Iterator[dict[str, int]]:
        """The part as ``engine`` plays it."""

        def start(new: NDArray[Any]) -> NDArray[Any]:
            return (_bytes(new) ^ self._held[f"start{number}"]).view(new.dtype)[:, 0]

        actions = iter(self.actions(number).astype(np.int64))
        return play(engine, self.parts[number], start, lambda states: next(actions))


def record(engine: Any, path: Path = FILE) -> None:
    """Play the script and write the file."""
    rng, held, fields = np.random.default_rng(0), dict[str, Any](), list[str]()
    for number, part in enumerate(SCRIPT):
        actions: list[NDArray[Any]] = []

        def start(new: NDArray[Any], number: int = number) -> NDArray[Any]:
            drawn = scrambled(new, rng)
            held[f"start{number}"] = _bytes(new) ^ _bytes(drawn)
            return drawn

        def choose(states: NDArray[Any], actions: Any = actions) -> NDArray[Any]:
            actions.append(purposeful(states, rng))
            return actions[-1]

        rows = list(play(engine, part, start, choose))
        fields = list(rows[1])  # the beginning has no reward yet
        rows[0] = dict.fromkeys(fields, 0) | rows[0]
        held[f"actions{number}"] = np.array(actions, np.uint8)
        held[f"checksums{number}"] = np.array(
            [[row[name] for name in fields] for row in rows], np.uint32
        )
    told = {"fields": fields, "parts": [asdict(part) for part in SCRIPT]}
    np.savez_compressed(path, told=np.frombuffer(json.dumps(told).encode(), np.uint8), **held)


if __name__ == "__main__":
    record(FACTS.build(ENVS, FORM, "jax"))
