"""PPO on Craftax end to end, in environment steps per CPU-second of one thread.

    python benchmarks/bench_craftax.py --env Craftax-Symbolic-v1 --layer 512 -n 64 -t 128
        --variants ours,jax --json

Variants: ``ours``; ``ours_dense`` (the same with dense observations); ``moe1``, ``moe2``,
``moe8`` (ours with so many experts in the hidden layers, which all work on every sample and have
the parameters of the dense net together); ``moe2_top1``, ``moe8_top2`` (1 of 2, 2 of 8 experts work
on a sample, and those have them); ``gru`` (ours with a recurrent core); ``jax`` (all of PPO in one
compiled program); ``vec`` (RLlib's own runner and learner on our vector environment); ``naive``
(one gymnasium environment per Craftax world); ``raw``, ``raw_dense`` (the engine alone, random
actions);
``sample`` (the runner alone) and ``sample_env`` (the same, without the time in which the actor
answers and actions are drawn from its logits). Each runs in a process of its own, in turn, with
the same nets; ``engine`` says what played Craftax: ours (``--engine``), or ``craftax`` where a
variant runs Craftax's own programs without our environments. ``--engines`` measures both engines
alone instead, in this process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from workers.rl.environments.craftax.catalog import ENGINES  # noqa: E402

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NPROC": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
WARM_UP = 2


class Work(NamedTuple):
    """A piece of work done: environment steps, CPU-seconds not to be counted, size of the model."""

    steps: int
    engine: str
    """What played them."""
    left_out: float = 0.0
    parameters: int = 0
    active: int = 0
    """Parameters one sample passes through."""


Step = Callable[[], Work]
OWN = "craftax"
"""In place of an engine of ours: Craftax's own programs."""


def engine_of(args: Any, form: str) -> str:
    """The engine of ours that plays the game seen in this form."""
    from workers.rl import ENVIRONMENTS

    found: str = ENVIRONMENTS[args.env].engine(form, args.engine)
    return found


def ours(args: Any, form: str = "compact", **model: Any) -> Step:
    """The product's own lane: one update of the Algorithm a step."""
    from workers.rl.learner import UpdateSettings

    trainer = _trainer(args, form, **model)
    algorithm = trainer._open_algorithm
    made_with = UpdateSettings(lr=trainer._training.lr, progress=0.0)
    shape = algorithm.ask(lambda learner: learner.shape())
    engine = engine_of(args, form)

    def step() -> Work:
        steps = algorithm.update(made_with).steps
        return Work(steps, engine, 0.0, shape.parameters, shape.active)

    return step


def ours_dense(args: Any) -> Step:
    """Ours, with observations as dense numbers."""
    return ours(args, "dense")


def _mixture(experts: int, top: int | None = None) -> Callable[[Any], Step]:
    layer: dict[str, Any] = {"kind": "moe"}
    if top is not None:
        selector = {"kind": "topk", "k": top, "weights": "full" if top == 1 else "chosen"}
        layer |= {"selector": selector, "match_active": True}
    return partial(ours, experts=experts, layer=layer)


def recurrent(args: Any) -> Step:
    """Ours with a recurrent core as wide as the layers."""
    return ours(args, core={"kind": "gru", "size": args.layer})


def sample(args: Any) -> Step:
    """Our environment runner alone."""
    runner = _trainer(args, "compact")._open_algorithm.env_runner
    engine = engine_of(args, "compact")
    return lambda: Work(sum(len(rollout) for rollout in runner.sample()), engine)


def sample_env(args: Any) -> Step:
    """Our environment runner without its actor, whose CPU time is taken call by call."""
    from workers.rl import runner as room

    runner = _trainer(args, "compact")._open_algorithm.env_runner
    used, engine = [0.0], engine_of(args, "compact")

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            before = time.process_time()
            result = call(*given)
            used[0] += time.process_time() - before
            return result

        return run

    runner.module.forward_exploration = timed(runner.module.forward_exploration)
    room.sample_actions = timed(room.sample_actions)

    def step() -> Work:
        used[0] = 0.0
        return Work(sum(len(rollout) for rollout in runner.sample()), engine, used[0])

    return step


def _settings(args: Any, form: str, **model: Any) -> dict[str, Any]:
    """Settings of a lane with the peer's nets and PPO."""
    from dataclasses import asdict

    from workers.models import MODELS
    from workers.parsing import checked
    from workers.rl import TRAININGS

    layer = args.layer
    net = {"kind": "actor_critic", "encoder": layer, "hidden": [layer, layer]}
    training = {
        "kind": "ppo",
        "num_envs": args.envs,
        "rollout": args.rollout,
        "steps_per_stage": args.envs * args.rollout * 100,
        "intervals": 1,
        "advantages": "minibatch",
        "clip_values": True,
    }
    return {
        "stream": {
            "kind": "craftax",
            "environment": args.env,
            "observations": form,
            "engine": args.engine,
            "tasks": [{"name": "all"}],
        },
        "model": asdict(checked(MODELS, net | {"layer": "linear", "separate": True} | model)[1]),
        "training": asdict(checked(TRAININGS, training)[1]),
        "method": {"kind": "finetune"},
    }


def _trainer(args: Any, form: str, checkpoint: Any = None, **model: Any) -> Any:
    from workers.contract import LaneSpec, StageSpec
    from workers.rl.building import build_stream
    from workers.rl.trainer import RLTrainer

    settings = _settings(args, form, **model)
    task = build_stream(settings["stream"], 0).tasks()[0]
    trainer = RLTrainer()
    spec = LaneSpec(
        lane="bench",
        trainer="rl",
        method="finetune",
        seed=args.seed,
        settings=settings,
        changeable=("stream.engine",),
    )
    trainer.open(spec, checkpoint)
    if checkpoint is not None:
        return trainer
    trainer.start(
        StageSpec(
            index=0,
            task=task,
            intervals=1,
            seed=args.seed,
            parent=None,
            settings_digest="bench",
        )
    )
    return trainer


def all_jax(args: Any) -> Step:
    """All of PPO in one compiled program, with optimistic resets."""
    from benchmarks.jax_ppo import Settings, initial, make_update
    from workers.rl.environments.craftax.engine import prepare_jax

    jax = prepare_jax()
    settings = Settings(
        environment=args.env, layer=args.layer, envs=args.envs, rollout=args.rollout
    )
    environment, training = initial(settings, args.seed)
    update = make_update(environment, settings)
    state = [training]

    def step() -> Work:
        state[0], ended = update(state[0])
        jax.block_until_ready((state[0], ended))
        return Work(settings.envs * settings.rollout, OWN)

    return step


def vec(args: Any) -> Step:
    """Stock RLlib (runner, connectors, learner) on our vector environment, dense observations."""
    return _stock(args, vectorised=True)


def naive(args: Any) -> Step:
    """Stock RLlib with one gymnasium environment per world: what one would write first."""
    return _stock(args, vectorised=False)


def _stock(args: Any, *, vectorised: bool) -> Step:
    from benchmarks.stock_rllib import stock

    iterate = stock(args, vectorised=vectorised)
    engine = engine_of(args, "dense") if vectorised else OWN
    return lambda: Work(iterate(), engine)


def _raw(form: str) -> Callable[[Any], Step]:
    """The engine alone: random actions, ended worlds made anew."""

    def build(args: Any) -> Step:
        import numpy as np

        from workers.rl import ENVIRONMENTS

        engine = ENVIRONMENTS[args.env].build(args.envs, form, args.engine)
        played = engine_of(args, form)
        engine.reset()
        rng = np.random.default_rng(args.seed)

        def step() -> Work:
            for actions in rng.integers(0, engine.actions, (args.rollout, args.envs)):
                _, _, done, _ = engine.step(actions)
                if done.any():
                    engine.renew(np.flatnonzero(done))
            return Work(args.rollout * args.envs, played)

        return step

    return build


VARIANTS: dict[str, Callable[[Any], Step]] = {
    "ours": ours,
    "ours_dense": ours_dense,
    "moe1": _mixture(1),
    "moe2": _mixture(2),
    "moe8": _mixture(8),
    "moe2_top1": _mixture(2, 1),
    "moe8_top2": _mixture(8, 2),
    "gru": recurrent,
    "jax": all_jax,
    "vec": vec,
    "naive": naive,
    "raw": _raw("compact"),
    "raw_dense": _raw("dense"),
    "sample": sample,
    "sample_env": sample_env,
}


def measure(args: Any, variant: str) -> dict[str, Any]:
    """Steps per CPU-second and per second of the best and of all repetitions after warm-up."""
    import torch

    torch.set_num_threads(1)
    step = VARIANTS[variant](args)
    for _ in range(WARM_UP):
        step()
    rates, steps, cpu, wall, left_out = [], 0, 0.0, 0.0, 0.0
    for _ in range(args.repetitions):
        began, used = time.perf_counter(), time.process_time()
        done = step()
        wall_taken, taken = time.perf_counter() - began, time.process_time() - used
        counted = taken - done.left_out
        rates.append(done.steps / counted)
        steps, cpu, wall = steps + done.steps, cpu + counted, wall + wall_taken
        left_out += done.left_out
    return {
        "steps_per_cpu_s": steps / cpu,
        "best": max(rates),
        "worst": min(rates),
        "steps_per_s": steps / wall,
        "steps": steps,
        "left_out": left_out / (cpu + left_out),
        "parameters": done.parameters,
        "active": done.active,
        "engine": done.engine,
    }


def child(args: Any, variant: str) -> dict[str, Any]:
    """``measure`` in a process of its own, with one thread everywhere."""
    call = [sys.executable, __file__, "--child", variant, "--env", args.env]
    call += ["--layer", str(args.layer), "-n", str(args.envs), "-t", str(args.rollout)]
    call += ["--repetitions", str(args.repetitions), "--seed", str(args.seed)]
    call += ["--engine", args.engine]
    result = subprocess.run(
        call, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, check=False
    )
    lines = [line for line in result.stdout.splitlines() if line.startswith("RESULT ")]
    if result.returncode or not lines:
        raise SystemExit(f"variant {variant} failed:\n{result.stderr[-3000:]}")
    figures: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT "))
    return figures


def combined(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Means over the rounds, and the ratio of the first variant to each other one."""
    names = list(rounds[0])
    result: dict[str, Any] = {}
    for name in names:
        parts = [one[name] for one in rounds]
        steps = sum(part["steps"] for part in parts)
        seconds = sum(part["steps"] / part["steps_per_cpu_s"] for part in parts)
        wall = sum(part["steps"] / part["steps_per_s"] for part in parts)
        result[name] = {
            "steps_per_cpu_s": round(steps / seconds, 1),
            "best": round(max(part["best"] for part in parts), 1),
            "worst": round(min(part["worst"] for part in parts), 1),
            "steps_per_s": round(steps / wall, 1),
            "left_out": round(sum(part["left_out"] for part in parts) / len(parts), 3),
            "parameters": parts[0]["parameters"],
            "active": parts[0]["active"],
            "engine": parts[0]["engine"],
        }
    first = names[0]
    result["ratio"] = {
        f"{first}/{name}": round(
            result[first]["steps_per_cpu_s"] / result[name]["steps_per_cpu_s"], 3
        )
        for name in names[1:]
    }
    return result


def main() -> None:
    """Run the variants in turn, round by round, and print a table or one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="Craftax-Symbolic-v1")
    parser.add_argument("--layer", type=int, default=512)
    parser.add_argument("-n", "--envs", type=int, default=64)
    parser.add_argument("-t", "--rollout", type=int, default=128)
    parser.add_argument("--variants", default="ours,jax")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1, help="turns of all variants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", default="auto", choices=ENGINES, help="of our environments")
    parser.add_argument("--engines", action="store_true", help="the engines alone")
    parser.add_argument("--form", default="compact", help="of observations, with --engines")
    parser.add_argument("--seconds", type=float, default=4.0, help="CPU time of each engine")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=sorted(VARIANTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print("RESULT " + json.dumps(measure(args, args.child)), flush=True)
        os._exit(0)  # Ray's and XLA's threads need not be waited for
    if args.engines:
        os.environ.update(ONE_THREAD)
        from benchmarks.craftax_engines import engines

        print(json.dumps({"engines": engines(args)}, indent=None if args.json else 2))
        return
    chosen = args.variants.split(",")
    unknown = sorted(set(chosen) - set(VARIANTS))
    if unknown:
        parser.error(f"unknown variants {unknown}; allowed: {', '.join(VARIANTS)}")
    rounds = [{name: child(args, name) for name in chosen} for _ in range(args.rounds)]
    result = combined(rounds)
    if args.json:
        print(json.dumps(result))
        return
    for name, figures in result.items():
        print(f"{name:12}", "  ".join(f"{key} {value}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
