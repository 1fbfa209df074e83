"""Whole training steps of the shipped configs, with the compiled ops against the references.

    python benchmarks/bench_steps.py --json

Each case is a lane of a config in `configs/`, opened by the product's own trainer on its real
data: Fashion-MNIST minibatches, Craftax rollouts from the engine. Processes with and without the
kernels take turns; figures are medians of single-thread CPU time and ratios between them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
MODES = ("off", "require")
"""GROWSTAGE_OPS of the reference's and of the compiled process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The first seed of a shipped config's lane; ``settings`` are ``--set`` overrides of it."""

    config: str
    lane: str
    settings: tuple[str, ...] = ()


def _fashion(selector: str) -> Case:
    layer = f'{{ kind = "moe", selector = "{selector}" }}'
    head = f'{{ kind = "moe", hidden = [256, 256], layer = {layer} }}'
    settings = (f"model.head={head}", "model.experts=8", "training.intervals=8")
    return Case(config="split_fashion_mnist.toml", lane="finetune", settings=settings)


def _craftax(*settings: str) -> Case:
    return Case(config="craftax/classic_growth.toml", lane="two-from-start", settings=settings)


CASES = {
    "Split-Fashion-MNIST, MLP as shipped": Case(
        config="split_fashion_mnist.toml", lane="finetune", settings=("training.intervals=8",)
    ),
    "Split-Fashion-MNIST, MoE E 8, dense": _fashion("dense"),
    "Split-Fashion-MNIST, MoE E 8, top-2": _fashion("topk"),
    "Craftax-Classic, two-from-start as shipped (dense)": _craftax(),
    "Craftax-Classic, 8 experts, top-2": _craftax(
        "lanes.2.model.experts=8",
        "model.max_experts=8",
        'model.layer={ kind = "moe", selector = { kind = "topk", k = 2 } }',
    ),
}


def _open(case: Case) -> Any:
    """The lane's trainer at the start of its first stage."""
    from orchestrator.config import file
    from workers.contract import StageSpec

    run = file.load(ROOT / "configs" / case.config, case.settings)
    lane = next(lane for lane in run.lanes if lane.name.startswith(case.lane))
    spec = lane.spec()
    if spec.trainer == "rl":
        from workers.rl.trainer import RLTrainer as Trainer
    else:
        from workers.supervised.trainer import SupervisedTrainer as Trainer  # type: ignore[assignment]
    trainer = Trainer()
    trainer.open(spec, None)
    trainer.start(
        StageSpec(
            index=0,
            task=lane.tasks()[0],
            intervals=lane.training.intervals,
            seed=0,
            parent=None,
            settings_digest="bench",
        )
    )
    return trainer


def _milliseconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1e3


def measure(case: Case) -> dict[str, float]:
    """Median milliseconds: of a gradient step, or of a PPO iteration and its sampling."""
    import torch

    torch.set_num_threads(1)
    trainer = _open(case)
    if hasattr(trainer, "_open_algorithm"):
        from workers.rl.learner import UpdateSettings

        algorithm = trainer._open_algorithm
        made_with = UpdateSettings(lr=trainer._training.lr, progress=0.0)
        for _ in range(2):
            algorithm.update(made_with)
        whole = [_milliseconds(lambda: algorithm.update(made_with)) for _ in range(5)]
        sampled = [_milliseconds(algorithm.env_runner.sample) for _ in range(5)]
        return {"iteration": statistics.median(whole), "sampling": statistics.median(sampled)}
    taken, steps = [], 0
    for n in range(1, 9):
        reports: list[Any] = []
        ms = _milliseconds(lambda n=n, into=reports: into.append(trainer.run_interval(n)))  # type: ignore[misc]
        taken.append(ms / (reports[0].steps - steps))
        steps = reports[0].steps
    return {"step": statistics.median(taken[1:])}


def _child(name: str, mode: str) -> dict[str, float]:
    one = {"GROWSTAGE_OPS": mode, "OMP_NUM_THREADS": "1", "NPROC": "1"}
    one["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    command = [sys.executable, __file__, "--child", name]
    done = subprocess.run(
        command, env={**os.environ, **one}, check=False, capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"{name!r} with GROWSTAGE_OPS={mode} failed:\n{done.stderr[-3000:]}")
    figures: dict[str, float] = json.loads(lines[-1].removeprefix("RESULT "))
    return figures


def compare(name: str, rounds: int) -> dict[str, dict[str, float]]:
    """Medians over rounds of both processes, in turn, and their ratio, for each quantity."""
    found: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    for _ in range(rounds):
        for mode in MODES:
            found[mode].append(_child(name, mode))
    result = {}
    for quantity in found["off"][0]:
        reference, ours = (
            statistics.median(one[quantity] for one in found[mode]) for mode in MODES
        )
        result[quantity] = {"reference_ms": reference, "ours_ms": ours, "ratio": ours / reference}
        print(f"{name:52} {quantity:10} {reference:9.2f} -> {ours:9.2f} ms {ours / reference:6.2f}")
    return result


def main() -> None:
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="*", help="parts of names; default: all")
    parser.add_argument("--child", choices=sorted(CASES), help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.child:
        print("RESULT " + json.dumps(measure(CASES[args.child])), flush=True)
        os._exit(0)  # Ray's and XLA's threads need not be waited for
    wanted = [name for name in CASES if not args.cases or any(c in name for c in args.cases)]
    steps = {name: compare(name, args.rounds) for name in wanted}
    if args.json:
        print(json.dumps({"steps": steps}))


if __name__ == "__main__":
    main()
