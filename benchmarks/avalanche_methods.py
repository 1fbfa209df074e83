"""Lanes of configs/methods.toml trained by Avalanche: same weights, samples, order, optimizer.

    python benchmarks/avalanche_methods.py [LANE ...] [--samples N] [--json]

Runs in an environment of its own that has avalanche-lib 0.6.0 (benchmarks/README.md). A lane is
named without its seed, ``"class der++"``; none = all that Avalanche has a method for, each with its
seeds; task-incremental ones are left out, there a task has a head of its own. Prints accuracy,
forgetting and learning accuracy of the test parts, mean and 95 % interval, as ``study.py`` does for
ours; a row as soon as its last seed is there. What Avalanche does otherwise stands beside each
method below. Batches come in our order but where a strategy makes its own training set (joint,
replay, gdumb, icarl): those shuffle.
``--samples``: training samples of a task at most, to try it out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

COLUMNS = {
    "accuracy": "acc.final",
    "forgetting": "forgetting.max",
    "learning accuracy": "learning_accuracy",
}


@dataclass(frozen=True)
class Lane:
    """What a strategy is made of."""

    model: Any
    method: Any
    """Config of our method."""
    optimizer: torch.optim.Optimizer
    common: dict[str, Any]
    """Arguments that every strategy takes."""


def plain(lane: Lane, *plugins: Any) -> Any:
    from avalanche.training.supervised import Naive

    return Naive(model=lane.model, optimizer=lane.optimizer, plugins=list(plugins), **lane.common)


def cumulative(lane: Lane) -> Any:
    from avalanche.training.supervised import Cumulative

    return Cumulative(model=lane.model, optimizer=lane.optimizer, **lane.common)


def replay(lane: Lane) -> Any:
    """Reservoir of the stream, filled at the end of tasks, as ours."""
    from avalanche.training.plugins import ReplayPlugin
    from avalanche.training.storage_policy import ReservoirSamplingBuffer

    size = lane.method.buffer
    storage = ReservoirSamplingBuffer(max_size=size)
    return plain(lane, ReplayPlugin(size, batch_size_mem=lane.method.batch, storage_policy=storage))


def er_ace(lane: Lane) -> Any:
    """Half our loss; a class-balanced memory that holds the task's samples from its start."""
    from avalanche.training.supervised import ER_ACE

    sizes = {"mem_size": lane.method.buffer, "batch_size_mem": lane.method.batch}
    return ER_ACE(model=lane.model, optimizer=lane.optimizer, **sizes, **lane.common)


def der(lane: Lane) -> Any:
    """One replayed batch for both terms; a class-balanced memory with outputs of the task's end."""
    from avalanche.training.supervised import DER

    method = lane.method
    return DER(
        model=lane.model,
        optimizer=lane.optimizer,
        mem_size=method.buffer,
        batch_size_mem=method.batch,
        alpha=method.alpha,
        beta=method.beta,
        **lane.common,
    )


def gdumb(lane: Lane) -> Any:
    """A class-balanced memory, each class a uniform sample, whatever storage the lane names."""
    from avalanche.training.plugins import GDumbPlugin

    return plain(lane, GDumbPlugin(lane.method.buffer))


def icarl(lane: Lane) -> Any:
    """A mean of the binary cross entropies where ours is a sum over classes. Classes that come
    again are distilled, not learnt from labels; their means are those of the last exemplars, half
    of them of mirrored images."""
    from avalanche.training.supervised import ICaRL

    *hidden, last = lane.model.head.layers
    features = nn.Sequential(lane.model.backbone, *(nn.Sequential(h, nn.ReLU()) for h in hidden))
    return ICaRL(
        feature_extractor=features,
        classifier=last,
        optimizer=lane.optimizer,
        memory_size=lane.method.buffer,
        buffer_transform=None,
        fixed_memory=True,
        **lane.common,
    )


def ewc(lane: Lane) -> Any:
    """Gradients of batch means are squared, with labels of the data: less importance than ours."""
    from avalanche.training.plugins import EWCPlugin

    return plain(lane, EWCPlugin(lane.method.strength / 2))


def online_ewc(lane: Lane) -> Any:
    from avalanche.training.plugins import EWCPlugin

    online = {"mode": "online", "decay_factor": lane.method.decay}
    return plain(lane, EWCPlugin(lane.method.strength / 2, **online))


def si(lane: Lane) -> Any:
    """Path integrals of the loss with its penalty, times 0.0015; importance cut at 0.001. On a CPU
    the weights that it compares are the live ones: no path, no importance, plain training."""
    from avalanche.training.plugins import SynapticIntelligencePlugin

    method = lane.method
    return plain(lane, SynapticIntelligencePlugin(method.strength / 0.0015, eps=method.damping))


def mas(lane: Lane) -> Any:
    """Gradients of batch means; importance of tasks is mixed half and half, not added up."""
    from avalanche.training.plugins import MASPlugin

    return plain(lane, MASPlugin(lambda_reg=lane.method.strength / 2))


def lwf(lane: Lane) -> Any:
    from avalanche.training.plugins import LwFPlugin

    return plain(lane, LwFPlugin(lane.method.weight, lane.method.temperature))


def agem(lane: Lane) -> Any:
    """So many samples of each task, where ours is a reservoir of the stream."""
    from avalanche.training.plugins import AGEMPlugin

    return plain(lane, AGEMPlugin(lane.method.buffer // 5, lane.method.batch))


STRATEGIES: dict[str, Callable[[Lane], Any]] = {
    "finetune": plain,
    "joint": cumulative,
    "replay": replay,
    "er_ace": er_ace,
    "der": der,
    "der++": der,
    "gdumb": gdumb,
    "icarl": icarl,
    "ewc": ewc,
    "online_ewc": online_ewc,
    "si": si,
    "mas": mas,
    "lwf": lwf,
    "agem": agem,
}
"""Kind of our method -> Avalanche's strategy with its settings."""
SHUFFLED = frozenset({"joint", "replay", "gdumb", "icarl"})
"""Strategies that make their own training set."""


def trained(config: Any, samples: int | None) -> dict[str, float]:
    """A lane's scores after the whole stream, by name of the metric."""
    from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline
    from avalanche.benchmarks.utils import _make_taskaware_tensor_classification_dataset as tensors

    from orchestrator.core.transitions import stage_spec
    from orchestrator.report.metrics import summarise
    from workers.contract import derive_seed
    from workers.supervised.batches import Batches
    from workers.supervised.building import (
        build_model,
        build_optimizer,
        build_stream,
        training_config,
    )

    spec, plan = config.spec(), config.plan()
    stream, training = build_stream(spec), training_config(spec)
    torch.manual_seed(spec.seed)
    torch.set_num_threads(1)
    kind, parts, tests, parent = config.sections["method"].kind, [], [], None
    for task in plan.tasks:
        stage = stage_spec(plan, task.index, parent)
        parent, data = stage.id, stream.data(task)
        train = data.train if samples is None else data.train.head(samples)
        order = Batches(len(train), training.batch, derive_seed(stage.seed, "order"))
        index = torch.cat([order.next() for _ in range(order.per_epoch)])
        x, y = train.x[index], train.y[index]
        parts.append(tensors(x, y, targets=y.tolist(), task_labels=0))
        tests.append(data.test)
    model = build_model(spec, stream)
    epochs = 1 if training.epochs is None else int(training.epochs)
    common = {"train_mb_size": training.batch, "train_epochs": epochs, "evaluator": None}
    if kind != "icarl":
        common["criterion"] = nn.CrossEntropyLoss()
    lane = Lane(model, config.sections["method"], build_optimizer(training, model), common)
    strategy = STRATEGIES[kind](lane)
    matrix = []
    classes = [sorted(set(part.targets)) for part in parts]
    # iCaRL asks the experience for facts that only class-incremental scenarios tell it.
    told = SimpleNamespace(
        n_classes_per_exp=[len(own) for own in classes],
        classes_order=[label for own in classes for label in own],
    )
    for experience in with_classes_timeline(benchmark_from_datasets(train=parts)).train_stream:
        experience.benchmark = told
        strategy.train(experience, shuffle=kind in SHUFFLED)
        matrix.append([accuracy(strategy.model, test) for test in tests])
    return summarise(matrix)


@torch.no_grad()
def accuracy(model: nn.Module, test: Any) -> float:
    """Share of a task's test samples that are answered right."""
    model.eval()
    right = sum(
        int((model(x).argmax(-1) == y).sum())
        for x, y in zip(test.x.split(512), test.y.split(512), strict=True)
    )
    model.train()
    return right / len(test)


def wanted(configs: Any) -> dict[str, list[Any]]:
    """Lanes that Avalanche has a strategy for: name without the seed -> configs of its seeds."""
    found: dict[str, list[Any]] = defaultdict(list)
    for config in configs:
        if (
            config.sections["method"].kind in STRATEGIES
            and not config.sections["stream"].task_known
        ):
            found[config.name.removesuffix(f"-s{config.seed}")].append(config)
    return found


def main() -> None:
    from study import told

    from orchestrator.config.file import load

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("lanes", nargs="*")
    parser.add_argument("--samples", type=int, default=None)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    lanes = wanted(load(ROOT / "configs" / "methods.toml").lanes)
    if unknown := set(given.lanes) - lanes.keys():
        parser.error(f"no lanes {sorted(unknown)}; there are: {', '.join(sorted(lanes))}")
    if not given.json:
        print(f"| lane | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}", flush=True)
    rows: dict[str, dict[str, list[float]]] = {}
    for name in given.lanes or lanes:
        row: dict[str, list[float]] = defaultdict(list)
        for config in lanes[name]:
            began, scores = time.perf_counter(), trained(config, given.samples)
            for column, metric in COLUMNS.items():
                row[column].append(scores[metric])
            print(f"{config.name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
        rows[name] = row
        if not given.json:
            print(f"| {name} | {' | '.join(told(row[c], 4) for c in COLUMNS)} |", flush=True)
    if given.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
