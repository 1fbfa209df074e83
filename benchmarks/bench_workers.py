"""What a gradient step costs with several workers on one lane, as a ratio to one worker.

    python benchmarks/bench_workers.py [--json] [--config configs/digits_growth.toml] [--workers 2]

Intervals of both alternate on this machine, each worker in a process of its own with one thread.
Wall time of a step says what is gained or lost; CPU-seconds of one worker say what it works.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402

from orchestrator.config.file import load  # noqa: E402
from orchestrator.core.actions import ApplyEdit, RunInterval, StartStage  # noqa: E402
from orchestrator.core.transitions import stage_spec  # noqa: E402
from tests.pairs import Pair  # noqa: E402
from workers.edits import Cause, Grow  # noqa: E402

ROUNDS = 11
STEPS = 40
"""Gradient steps of an interval."""


class Lane:
    """The config's first lane, trained by so many workers, all experts grown."""

    def __init__(self, path: Path, workers: int, batch: int) -> None:
        training = f"training={{batch={batch}, steps={STEPS * ROUNDS}, intervals={ROUNDS}}}"
        config = load(path, [training, f"workers={workers}"])
        self.name = config.lanes[0].name
        plan = config.lanes[0].plan()
        stage = stage_spec(plan, 0, None)
        self.pair = Pair(workers)
        self.pair.open(plan.spec, None)
        self.n = 0
        grow = Grow(
            id="grow",
            stage=stage.id,
            after_interval=0,
            revision=1,
            experts=config.lanes[0].sections["model"].max_experts,
            seed=0,
            cause=Cause(policy="bench", trigger="start"),
        )
        self._execute(StartStage(lane=self.name, attempt=1, seq=1, stage=stage))
        self._execute(ApplyEdit(lane=self.name, attempt=1, seq=2, edit=grow))

    def interval(self) -> tuple[float, float]:
        """Milliseconds of wall time and CPU time of one worker, per step of the next interval."""
        processes = [psutil.Process(process.pid) for process in self.pair.processes]
        before = [sum(process.cpu_times()[:2]) for process in processes]
        self.n += 1
        run = RunInterval(lane=self.name, attempt=1, seq=2 + self.n, n=self.n, revision=1)
        wall = max(report.seconds for report in self._execute(run))
        after = [sum(process.cpu_times()[:2]) for process in processes]
        cpu = statistics.mean(b - a for a, b in zip(before, after, strict=True))
        return 1000 * wall / STEPS, 1000 * cpu / STEPS

    def _execute(self, command: object) -> list:
        with tempfile.TemporaryDirectory() as folder:
            return self.pair.ask("execute", command, folder)


def measure(path: Path, workers: int, batch: int) -> dict[str, float]:
    """Median ratio over the rounds and its quartiles, and what they are ratios of."""
    one, several = Lane(path, 1, batch), Lane(path, workers, batch)
    one.interval(), several.interval()  # the first is slower
    rounds = [(*one.interval(), *several.interval()) for _ in range(ROUNDS - 1)]
    one.pair.close()
    several.pair.close()
    figures = {}
    for name, i in (("wall", 0), ("cpu", 1)):
        ratios = [times[i + 2] / times[i] for times in rounds]
        low, _, high = statistics.quantiles(ratios, n=4)
        figures |= {
            f"{name}_ratio": statistics.median(ratios),
            f"{name}_ratio_low": low,
            f"{name}_ratio_high": high,
            f"{name}_ms_one": statistics.median(times[i] for times in rounds),
            f"{name}_ms_several": statistics.median(times[i + 2] for times in rounds),
        }
    return figures


def main() -> None:
    """Measure the config's own batch and larger ones; the last line is JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "digits_growth.toml")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    figures = {}
    for batch in (64, 256):
        found = measure(arguments.config, arguments.workers, batch)
        figures |= {f"batch_{batch}/{name}": round(value, 3) for name, value in found.items()}
    if arguments.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:32} {value:10.3f}")


if __name__ == "__main__":
    main()
