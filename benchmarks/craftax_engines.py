"""Engines of one Craftax game alone: steps and new worlds per CPU-second of one thread.

``bench_craftax.py --engines`` prints it. Actions are random and ended episodes begin anew inside
the step: the native engine by its own auto-reset, the JAX engine by ``renew``, which is faster
there than its auto-reset. Games ``begun`` natively have the floor that is played; ``worlds`` have
all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

SIZES = (64, 1024)


def rate(work: Callable[[], int], seconds: float) -> float:
    """Units of work per CPU-second, after one call that is not counted."""
    work()
    begun, done = time.process_time(), 0
    while time.process_time() - begun < seconds:
        done += work()
    return done / (time.process_time() - begun)


def measure(env: str, engine: str, form: str, size: int, seconds: float) -> dict[str, float]:
    """One engine with ``size`` environments, observed in one form."""
    from workers.rl import ENVIRONMENTS

    name = env.replace("-v1", "-AutoReset-v1") if engine == "native" else env
    batch = ENVIRONMENTS[name].build(size, form, engine)
    rng = np.random.default_rng(0)
    actions = rng.integers(0, batch.actions, (64, size), dtype=np.int32)

    def step() -> int:
        for drawn in actions:
            _, _, done, _ = batch.step(drawn)
            if engine == "jax" and done.any():
                batch.renew(np.flatnonzero(done))
        return len(actions) * size

    def begin() -> int:
        batch.reset()
        return size

    def make() -> int:
        batch.reset()
        if engine == "native":
            assert len(batch.states) == size  # makes the floors that a new game puts off
        return size

    return {
        "begun_per_cpu_second": round(rate(begin, seconds / 4)),
        "worlds_per_cpu_second": round(rate(make, seconds / 4)),
        "steps_per_cpu_second": round(rate(step, seconds)),
    }


def engines(args: Any) -> dict[str, Any]:
    """Both engines at all sizes; the native one only where the game has one."""
    from workers.rl import ENVIRONMENTS

    names = ("native", "jax") if ENVIRONMENTS[args.env].native_forms else ("jax",)
    return {
        engine: {
            str(size): measure(args.env, engine, args.form, size, args.seconds) for size in SIZES
        }
        for engine in names
    }
