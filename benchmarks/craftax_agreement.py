"""Whether the native engine of Craftax does to the bit what Craftax does under JAX.

    python benchmarks/craftax_agreement.py --game full --steps 100000 --json agreement.json

Both engines play the same games from the same seed with random actions, in rounds that begin with
new worlds, with the agent on another floor, or with states that play seldom reaches (all creatures
and belongings drawn anew). After each step every field of every state, the observation, the reward
and the end are compared, floats by their bits; games that differ go on from JAX's state. Written
are the number of steps, for each field that differed in how many games it did and by how many
units in the last place, and the first divergence. Exits with 1 if there was one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests import craftax_full_states, craftax_states
from workers.rl import ENVIRONMENTS
from workers.rl.environments.base import EnvironmentTask
from workers.rl.environments.craftax.engine import CraftaxEngine
from workers.rl.environments.craftax.native.classic import CLASSIC
from workers.rl.environments.craftax.native.engine import NativeEngine
from workers.rl.environments.craftax.native.full import FULL
from workers.rl.environments.craftax.native.game import Game, from_native, to_native

GAMES = {
    "classic": ("Craftax-Classic-Symbolic-v1", CLASSIC, craftax_states.scrambled_classic),
    "full": ("Craftax-Symbolic-v1", FULL, craftax_full_states.scrambled),
}
STEPS_OF_A_ROUND = 40
SCRAMBLED_EVERY = 8
"""Steps between two scramblings, in the rounds that have them."""

Different = tuple[str, NDArray[np.bool_], int]
"""A field, which games differ in it [N], and by how many units in the last place at most."""


def differences(expected: NDArray[Any], actual: NDArray[Any], path: str) -> Iterator[Different]:
    """The fields in which two arrays [N] of states, or two plain arrays [N, ...], differ."""
    if expected.dtype.names:
        for name in expected.dtype.names:
            yield from differences(expected[name], actual[name], f"{path}.{name}".lstrip("."))
        return
    bits = np.int32 if expected.dtype == np.float32 else expected.dtype
    one, other = (np.ascontiguousarray(x).view(bits) for x in (expected, actual))
    different = one != other
    if different.any():
        units = int(np.abs(one.astype(np.int64) - other)[different].max())
        games = different.reshape(len(different), -1).any(1)
        yield path, games, units if bits is np.int32 else 0


class Tally:
    """What differed so far."""

    def __init__(self) -> None:
        self.steps = 0
        self.fields: dict[str, dict[str, int]] = {}
        self.first: dict[str, Any] | None = None

    def add(self, found: Iterator[Different], **where: Any) -> NDArray[np.int64]:
        """Count what differs; returns the games that do."""
        games: set[int] = set()
        for name, different, units in found:
            field = self.fields.setdefault(name, {"games": 0, "units_in_last_place": 0})
            field["games"] += int(different.sum())
            field["units_in_last_place"] = max(field["units_in_last_place"], units)
            games |= set(np.flatnonzero(different).tolist())
            self.first = self.first or {"field": name, "game": min(games), **where}
        return np.array(sorted(games), np.int64)

    def as_json(self) -> dict[str, Any]:
        """What is written."""
        return {"steps": self.steps, "fields": self.fields, "first_divergence": self.first}


class Pair:
    """The two engines of one game."""

    def __init__(self, name: str, games: int) -> None:
        environment, self.game, self.scrambled = GAMES[name]
        self.facts = ENVIRONMENTS[environment]
        self.jax = CraftaxEngine(self.facts, games, "compact")
        self.native = NativeEngine(self.facts, games, "compact")
        self.tally = Tally()

    def expected(self) -> NDArray[Any]:
        """The states that JAX has, as an array of the native game."""
        game: Game = self.game
        return to_native(game, self.jax._state)

    def round(self, number: int, rng: np.random.Generator) -> None:
        """Play one round: a third each of fresh worlds, lower floors and scrambled states."""
        floors = len(self.facts.floors)
        floor = int(rng.integers(1, floors)) if number % 3 == 1 and floors > 1 else 0
        for engine in (self.jax, self.native):
            engine.set_task(EnvironmentTask(start_floor=floor))
            engine.seed(number)
            engine.reset()
        for step in range(STEPS_OF_A_ROUND):
            if number % 3 == 2 and step % SCRAMBLED_EVERY == 0:
                self.native.states[:] = self.scrambled(self.expected(), rng)
                self.jax._state = from_native(self.native.states, self.jax._state)
            self.step(rng, round=number, step=step, floor=floor)

    def step(self, rng: np.random.Generator, **where: int) -> None:
        """One step of all games, and new worlds where they ended."""
        count = self.native.num_envs
        actions = rng.integers(0, self.facts.actions, count)
        actions = np.where(rng.random(count) < 0.5, rng.integers(1, 6, count), actions)
        answers = [engine.step(actions) for engine in (self.jax, self.native)]
        self.tally.steps += count

        def found() -> Iterator[Different]:
            parts = zip(("observation", "reward", "ended"), *answers, strict=False)
            for what, expected, actual in parts:
                yield from differences(np.asarray(expected), np.asarray(actual), what)
            yield from differences(self.expected(), self.native.states, "")

        different = self.tally.add(found(), **where)
        self.native.states[different] = self.expected()[different]
        ended = np.flatnonzero(np.asarray(answers[0][2]))
        if len(ended):
            worlds = [np.asarray(engine.renew(ended)) for engine in (self.jax, self.native)]
            states = differences(self.expected()[ended], self.native.states[ended], "")
            named = ((f"new world: {name}", *rest) for name, *rest in states)
            self.tally.add(named, **where)
            seen = differences(worlds[0][ended], worlds[1][ended], "new world: observation")
            self.tally.add(seen, **where)
            self.native.states[ended] = self.expected()[ended]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--game", choices=GAMES, required=True)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("-n", "--games", type=int, default=64, help="played side by side")
    parser.add_argument("--json", type=Path, help="write the result there")
    args = parser.parse_args()
    pair, number, rng = Pair(args.game, args.games), 0, np.random.default_rng(0)
    while pair.tally.steps < args.steps:
        pair.round(number, rng)
        number += 1
        print(f"{pair.tally.steps} steps, first divergence: {pair.tally.first}", flush=True)
    text = json.dumps(pair.tally.as_json(), indent=1)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")
    return int(pair.tally.first is not None)


if __name__ == "__main__":
    raise SystemExit(main())
