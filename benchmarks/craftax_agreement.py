"""Whether the native engine of Craftax plays the JAX engine's games, to the bit.

    python benchmarks/craftax_agreement.py --env Craftax-Classic-Symbolic-v1 --steps 100000 --json

Both play from the same seed with random actions; every few steps both go on from a state drawn at
random (``tests/craftax_states.py``, ``tests/craftax_full_states.py``), so that all a step does is
seen often, on all floors. Compared after every step: all fields of the state, the observation, the
reward and the end. Prints as its last line
``{"steps", "fields", "first_divergence", "floors", "acted", "ended"}``: for each field in how many
steps of an environment it differed, and where that was first; steps by floor; for each action the
steps that changed what only a player changes; how many episodes ended.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.craftax_full_states import purposeful, scrambled  # noqa: E402
from tests.craftax_states import scrambled_classic  # noqa: E402
from workers.rl import ENVIRONMENTS  # noqa: E402
from workers.rl.environments.base import EnvironmentTask  # noqa: E402
from workers.rl.environments.craftax.native.engine import NativeEngine  # noqa: E402

SCRAMBLED = {1: scrambled_classic, 9: scrambled}
"""By the number of floors: draws states anew."""
PLAYERS = (
    "player_position", "player_direction", "player_level", "inventory", "is_sleeping", "is_resting",
    "sword_enchantment", "bow_enchantment", "armour_enchantments", "learned_spells", "item_map",
    "player_dexterity", "player_strength", "player_intelligence", "growing_plants_mask",
)  # fmt: skip
"""Fields that change by what the player does, and by little else."""


def differences(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    """Which environments differ in any bit [N]."""
    a, b = (
        np.ascontiguousarray(part).reshape(len(part), -1).view(np.uint8) for part in (one, other)
    )
    return np.asarray((a != b).any(1))


class Comparison:
    """Counts the environments that differ, by field."""

    def __init__(self) -> None:
        self.fields: Counter[str] = Counter()
        self.steps = 0
        self.first: dict[str, Any] | None = None
        self.floors: Counter[int] = Counter()
        self.acted: Counter[int] = Counter()
        self.ended = 0

    def compare(self, name: str, one: NDArray[Any], other: NDArray[Any]) -> None:
        """Count under ``name``, or under the names of the fields of a structured array."""
        for field in one.dtype.names or ():
            self.compare(f"{name}{field}.", one[field], other[field])
        if one.dtype.names:
            return
        differ = differences(one, other)
        self.fields[name.rstrip(".")] += int(differ.sum())
        if differ.any() and self.first is None:
            index = int(np.flatnonzero(differ)[0])
            self.first = {
                "step": self.steps,
                "field": name.rstrip("."),
                "native": np.asarray(one[index]).tolist(),
                "jax": np.asarray(other[index]).tolist(),
            }

    def result(self) -> dict[str, Any]:
        """What is printed."""
        return {
            "steps": self.steps,
            "fields": self.fields,
            "first_divergence": self.first,
            "floors": dict(sorted(self.floors.items())),
            "acted": dict(sorted(self.acted.items())),
            "ended": self.ended,
        }

    def count(
        self, before: NDArray[Any], after: NDArray[Any], actions: NDArray[np.integer]
    ) -> None:
        """Note the floors, and the actions that did something."""
        if "player_level" in before.dtype.names:
            self.floors.update(before["player_level"].tolist())
        changed = np.zeros(len(before), bool)
        for name in PLAYERS:
            if name in before.dtype.names:
                changed |= differences(before[name], after[name])
        self.acted.update(actions[changed].tolist())


def compare(args: Any) -> dict[str, Any]:
    """Play both engines side by side."""
    facts = ENVIRONMENTS[args.env]
    engines = [facts.build(args.envs, args.form, engine) for engine in ("native", "jax")]
    native, jax = engines
    assert isinstance(native, NativeEngine)
    draws_anew = SCRAMBLED[len(facts.floors)]
    rng, found = np.random.default_rng(args.seed), Comparison()
    for engine in engines:
        engine.set_task(EnvironmentTask(params={"max_timesteps": args.max_timesteps}))
        engine.seed(args.seed)
        engine.reset()

    def look() -> None:
        found.compare("", native.states, jax.states)
        found.compare("observation", native._observations, np.asarray(jax._observations))

    look()
    rounds = -(-args.steps // args.envs)
    for count in range(rounds):
        if count >= rounds // 2 and count % 4 == 0:
            drawn = native.snapshot() | {"states": draws_anew(native.states, rng)}
            for engine in engines:
                engine.restore(drawn)
        actions = rng.integers(0, facts.actions, args.envs)
        if count % 2 and len(facts.floors) > 1:
            actions = purposeful(native.states, rng)
        before = native.states.copy()
        (_, *mine, _), (_, *theirs, _) = (engine.step(actions) for engine in engines)
        found.steps += args.envs
        found.count(before, native.states, actions)
        found.ended += int(theirs[1].sum())
        for name, a, b in zip(("reward", "terminated"), mine, theirs, strict=True):
            found.compare(name, a, b)
        look()
        if theirs[1].any():
            for engine in engines:
                engine.renew(np.flatnonzero(theirs[1]))
            look()
        if found.first is not None and args.stop:
            break
    return found.result()


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="Craftax-Classic-Symbolic-v1")
    parser.add_argument("--form", default="dense", choices=("dense", "compact"))
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("-n", "--envs", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-timesteps", type=int, default=10_000)
    parser.add_argument("--stop", action="store_true", help="at the first divergence")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = compare(args)
    if args.json:
        print(json.dumps(result))
        return
    wrong = {name: count for name, count in result["fields"].items() if count}
    print(f"{result['steps']} steps, {len(result['fields'])} fields, differing: {wrong or 'none'}")
    print(f"first divergence: {result['first_divergence']}")


if __name__ == "__main__":
    main()
