"""What orchestration costs: stage switches, the driver, growth, the loop, and memory.

    python benchmarks/bench_orchestration.py [--json] [--demo]

Each figure comes from one run on this machine; the loop is compared with a bare one interleaved
in the same process. ``--demo`` adds the resident memory of the quickstart (minutes).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import nn  # noqa: E402

from orchestrator.beginning import begin, joined  # noqa: E402
from orchestrator.config.file import check, load  # noqa: E402
from orchestrator.config.run import RunConfig  # noqa: E402
from orchestrator.core.events import CheckpointSaved, EditApplied, IntervalDone, StageStarted  # noqa: E402
from orchestrator.core.journal import Journal, read  # noqa: E402
from orchestrator.core.transitions import stage_spec  # noqa: E402
from orchestrator.driver import Driver  # noqa: E402
from tests.fakes import FakeExecutor  # noqa: E402
from workers.supervised.trainer import SupervisedTrainer  # noqa: E402

ROUNDS = 9


def synthetic_stages(stages: int = 1000) -> float:
    """Seconds of controller + journal (fsync) for a scripted stream of ``stages`` stages."""
    config = check(
        {
            "name": "synthetic",
            "stream": {"kind": "random_labels", "tasks": stages},
            "training": {"intervals": 1},
            "lanes": [{"method": "finetune"}],
        },
        "synthetic",
    )
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.jsonl")
        driver = Driver(config, journal, FakeExecutor())
        began = time.perf_counter()
        status = driver.run(begin(config, "synthetic"), joined(1, 0))
        seconds = time.perf_counter() - began
        journal.close()
    assert status == "done"
    return seconds


def real_run(config: RunConfig, folder: Path) -> list[Any]:
    """The events of a real run on a local Ray, tracked in MLflow as always."""
    from orchestrator import session

    assert session.run(config, folder, None, None, quiet=True) == "done"
    return [record.event for record, _ in read(folder / "journal.jsonl")]


def orchestration(folder: Path) -> dict[str, float]:
    """Stage switch, driver time per interval and growth pause of a real run (1M parameters)."""
    config = check(
        {
            "name": "switch",
            "stream": {"kind": "split", "dataset": "digits"},
            "model": {"head": {"kind": "moe", "hidden": [960, 960]}},
            "training": {"epochs": 4, "intervals": 10},
            "policies": {"growth": {"kind": "periodic"}},
            "lanes": [{"method": "finetune"}],
        },
        "switch",
    )
    events = real_run(config, folder)
    switches, driver, pauses, shapes = [], [], [], []
    saved_at = previous = None
    for event in events:
        match event:
            case CheckpointSaved(final=True, index=index):
                saved_at = event.at if index >= 0 else None
            case StageStarted():
                previous = event.at
            case EditApplied():
                assert previous is not None
                pauses.append(event.at - previous)
                shapes.append(event.report.after.parameters)
                previous = event.at
            case IntervalDone():
                started = event.at - event.report.seconds
                if event.report.n == 1 and saved_at is not None:
                    switches.append(started - saved_at)
                elif event.report.n > 1 and previous is not None:
                    driver.append(started - previous)
                previous = event.at
    return {
        "stage_switch_s": max(switches),
        "stage_switch_median_s": statistics.median(switches),
        "driver_ms_per_interval": 1e3 * statistics.median(driver),
        "growth_pause_s": max(pauses),
        "growth_parameters": float(max(shapes)),
    }


def bare_loop(tasks: list[Any], seed: int) -> float:
    """CPU-seconds of the plainest torch loop over the same tasks, network and optimizer."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(False)  # as a bare loop would run
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    began = time.process_time()
    for data in tasks:
        order = torch.randperm(len(data.train))
        for index in order.split(64):
            optimizer.zero_grad()
            x, y = data.train.x[index], data.train.y[index]
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
    return time.process_time() - began


def our_loop(config: RunConfig) -> float:
    """CPU-seconds of the supervised worker over the same stream, in this process."""
    lane = config.lanes[0]
    trainer = SupervisedTrainer()
    trainer.open(lane.spec(), None)
    seconds = 0.0
    for task in lane.tasks():
        stage = stage_spec(lane.plan(), task.index, None)
        trainer.stream.data(task)  # both loops begin with the task's data in memory
        began = time.process_time()
        trainer.start(stage)
        for n in range(1, stage.intervals + 1):
            trainer.run_interval(n)
        seconds += time.process_time() - began
        trainer.stage = None
    return seconds


def supervised_ratio() -> dict[str, float]:
    """Ratio of CPU-seconds, ours / bare, interleaved, with its spread over the rounds."""
    torch.set_num_threads(1)
    settings = [
        "lanes=[{method='finetune', seeds=[0]}]",
    ]
    config = load(ROOT / "configs" / "split_fashion_mnist.toml", settings)
    lane = config.lanes[0]
    trainer = SupervisedTrainer()
    trainer.open(lane.spec(), None)
    tasks = [trainer.stream.data(task) for task in lane.tasks()]
    bare_loop(tasks[:1], 0)
    pairs = [(our_loop(config), bare_loop(tasks, seed)) for seed in range(ROUNDS)]
    ratios = sorted(ours / bare for ours, bare in pairs)
    return {
        "supervised_vs_plain_torch": statistics.median(ratios),
        "supervised_ratio_low": ratios[0],
        "supervised_ratio_high": ratios[-1],
        "supervised_cpu_s": statistics.median(ours for ours, _ in pairs),
        "plain_torch_cpu_s": statistics.median(bare for _, bare in pairs),
    }


def demo_memory(folder: Path) -> dict[str, float]:
    """Peak resident memory (MB) of the quickstart's driver and workers, and its seconds."""
    import psutil

    began = time.perf_counter()
    command = [sys.executable, "-m", "orchestrator", "run", "configs/quickstart.toml"]
    process = subprocess.Popen(
        [*command, "--run-dir", str(folder)], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    peak = 0
    while process.poll() is None:
        try:
            peak = max(peak, psutil.Process(process.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.2)
    assert process.wait() == 0
    figures = {"demo_s": time.perf_counter() - began, "demo_driver_rss_mb": peak / 2**20}
    for record, _ in read(folder / "journal.jsonl"):
        if isinstance(record.event, IntervalDone):
            key = f"demo_worker_rss_mb/{record.event.lane}"
            figures[key] = max(figures.get(key, 0.0), record.event.report.rss_mb)
    return figures


def main() -> None:
    """Run everything and print a table, or one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--demo", action="store_true", help="also the quickstart's memory")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    figures: dict[str, float] = {"synthetic_1000_stages_s": synthetic_stages()}
    figures |= supervised_ratio()
    with tempfile.TemporaryDirectory() as folder:
        figures |= orchestration(Path(folder) / "runs" / "switch")
        if arguments.demo:
            figures |= demo_memory(Path(folder) / "runs" / "demo")
    figures = {name: round(value, 4) for name, value in figures.items()}
    if arguments.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:32} {value:12,.4f}")


if __name__ == "__main__":
    main()
