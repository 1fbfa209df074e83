"""Learning curves on Craftax: ours against PPO wholly in JAX, same settings, same steps.

    python benchmarks/study_craftax.py --env Craftax-Classic-Symbolic-v1 --steps 1000000
        --seeds 3 --out docs/images/craftax_curves.png

Variants: ``ours``; ``jax`` (all of PPO in one compiled program); ``ours_jax`` (ours on Craftax's
own programs); ``resumed`` (ours, saved half-way and gone on with in a new trainer) and
``switched`` (the same, natively before and on Craftax's own programs after: the curve must be that
of ``resumed``, to the bit).

Prints mean and interval of the return of the episodes that ended in the last tenth of the steps,
and all curves as one JSON object in the last line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.bench_craftax import ONE_THREAD, _trainer  # noqa: E402

Curve = list[tuple[int, float, int]]
"""Per update: environment steps so far, sum of the returns of ended episodes, their number."""


def ours(args: Any, *engines: str) -> Curve:
    """The product's own lane, trained by these engines one after the other, equally long."""
    curve: Curve = []
    saved = None
    with tempfile.TemporaryDirectory() as folder:
        for number, engine in enumerate(engines, 1):
            args.engine = engine
            trainer = _trainer(args, "compact", saved)
            _learn(trainer, curve, args.steps * number // len(engines))
            if number < len(engines):
                saved = trainer.save(str(Path(folder) / str(number)), number)
                trainer.close()
    return curve


def _learn(trainer: Any, curve: Curve, until: int) -> None:
    from workers.rl.learner import UpdateSettings

    made_with = UpdateSettings(lr=trainer._training.lr, progress=0.0)
    steps = curve[-1][0] if curve else 0
    while steps < until:
        update = trainer._open_algorithm.update(made_with)
        steps += update.steps
        returns = [episode.total for episode in update.episodes]
        curve.append((steps, sum(returns), len(returns)))
    trainer._steps = steps  # where the stage stands: other worlds follow


def all_jax(args: Any) -> Curve:
    """The peer."""
    from benchmarks.jax_ppo import Settings, initial, make_update
    from workers.rl.environments.craftax.engine import prepare_jax

    prepare_jax()
    settings = Settings(
        environment=args.env, layer=args.layer, envs=args.envs, rollout=args.rollout
    )
    environment, training = initial(settings, args.seed)
    update, curve, steps = make_update(environment, settings), [], 0
    while steps < args.steps:
        training, (returns, ended) = update(training)
        steps += settings.envs * settings.rollout
        curve.append((steps, float(returns), int(ended)))
    return curve


VARIANTS: dict[str, Callable[[Any], Curve]] = {
    "ours": lambda args: ours(args, "auto"),
    "jax": all_jax,
    "ours_jax": lambda args: ours(args, "jax"),
    "resumed": lambda args: ours(args, "native", "native"),
    "switched": lambda args: ours(args, "native", "jax"),
}


def binned(curve: Curve, bins: int) -> list[float]:
    """Mean return of the episodes that ended in each part of the steps; NaN where none did."""
    bounds = [len(curve) * i // bins for i in range(bins + 1)]
    parts = [curve[begin:end] for begin, end in pairwise(bounds)]
    sums = [(sum(total for _, total, _ in p), sum(count for *_, count in p)) for p in parts]
    return [total / count if count else float("nan") for total, count in sums]


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval (Student's t)."""
    from scipy import stats

    if len(values) < 2:
        return values[0], float("inf")
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return sum(values) / len(values), float(half)


def child(args: Any, variant: str, seed: int) -> Curve:
    """One curve, in a process of its own with one thread."""
    call = [sys.executable, __file__, "--child", variant, "--env", args.env]
    call += ["--layer", str(args.layer), "-n", str(args.envs), "-t", str(args.rollout)]
    call += ["--steps", str(args.steps), "--seed", str(seed)]
    env = {**os.environ, **ONE_THREAD}
    shown = subprocess.run(call, env=env, capture_output=True, text=True, check=False)
    lines = [line for line in shown.stdout.splitlines() if line.startswith("CURVE ")]
    if not lines:
        raise SystemExit(f"{variant}, seed {seed} failed:\n{shown.stderr[-2000:]}")
    return [(int(a), float(b), int(c)) for a, b, c in json.loads(lines[-1][6:])]


def draw(curves: dict[str, list[list[float]]], args: Any) -> None:
    """Mean over seeds with the range of the seeds."""
    import matplotlib as mpl

    mpl.use("Agg")
    import numpy as np
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    x = np.arange(1, args.bins + 1) * args.steps / args.bins
    for name, rows in curves.items():
        table = np.array(rows)
        axes.plot(x, table.mean(0), label=f"{name} ({len(rows)} seeds)")
        axes.fill_between(x, table.min(0), table.max(0), alpha=0.2)
    axes.set(xlabel="environment steps", ylabel="return of ended episodes", title=args.env)
    axes.legend()
    figure.savefig(args.out, dpi=110)


def main() -> None:
    """All curves, one after the other; the figure and the last bin's numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="Craftax-Classic-Symbolic-v1")
    parser.add_argument("--layer", type=int, default=64)
    parser.add_argument("-n", "--envs", type=int, default=64)
    parser.add_argument("-t", "--rollout", type=int, default=64)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bins", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--variants", default="ours,jax")
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print("CURVE " + json.dumps(VARIANTS[args.child](args)), flush=True)
        os._exit(0)
    chosen = args.variants.split(",")
    if unknown := sorted(set(chosen) - set(VARIANTS)):
        parser.error(f"unknown variants {unknown}; allowed: {', '.join(VARIANTS)}")
    curves: dict[str, list[list[float]]] = {name: [] for name in chosen}
    for seed in range(args.seeds):  # seed by seed: what is cut short is still a comparison
        for name in chosen:
            curves[name].append(binned(child(args, name, seed), args.bins))
            print(f"{name}, seed {seed}: {curves[name][-1][-1]:.2f}", file=sys.stderr, flush=True)
    for name, rows in curves.items():
        mean, half = interval([row[-1] for row in rows])
        print(f"{name}: {mean:.2f} +- {half:.2f} (95 %, {len(rows)} seeds, last part of the steps)")
    if args.out:
        draw(curves, args)
    print(json.dumps(curves))


if __name__ == "__main__":
    main()
