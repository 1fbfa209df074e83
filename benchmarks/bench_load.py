"""What long and wide runs cost the driver: time per event, resume, journal, report, memory, and
what is made of the journal for MLflow.

    python benchmarks/bench_load.py [--lanes 200] [--stages 50] [--intervals 2] [--sync]
        [--evaluation all] [--json]

The real driver, journal and report with scripted workers, which answer at once. Without ``--sync``
the journal is written and not made durable: what a disk takes for that says nothing of the driver.
Seconds are of this process's processor.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from orchestrator.beginning import begin, joined, takeover  # noqa: E402
from orchestrator.config.file import check  # noqa: E402
from orchestrator.config.run import RunConfig  # noqa: E402
from orchestrator.core.append_only import DISK, Disk  # noqa: E402
from orchestrator.core.journal import Journal, read  # noqa: E402
from orchestrator.driver import Driver  # noqa: E402
from orchestrator.report.history import report  # noqa: E402
from orchestrator.tracking.projection import Projection  # noqa: E402
from tests.fakes import FakeExecutor  # noqa: E402


class Unsynced(Disk):
    """A disk that takes no time to make durable what it was given."""

    def sync(self, file: FileIO) -> None: ...


def wide(lanes: int, stages: int, intervals: int, evaluation: str) -> RunConfig:
    """So many lanes, each by a seed of its own, over so many tasks."""
    raw = {
        "name": "load",
        "stream": {"kind": "random_labels", "tasks": stages},
        "training": {"intervals": intervals},
        "evaluation": evaluation,
        "share_stages": False,
        "lanes": [{"method": "finetune", "seeds": list(range(lanes))}],
    }
    return check(raw, "load")


@contextmanager
def timed(told: dict[str, Any], name: str) -> Iterator[None]:
    began = time.process_time()
    yield
    told[f"{name}_s"] = round(time.process_time() - began, 2)


def measure(config: RunConfig, room: int, disk: Disk) -> dict[str, Any]:
    """One run to its end, then a resume of it, its journal read, and its report."""
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        journal = Journal(path, disk=disk)
        driver = Driver(config, journal, FakeExecutor(room=room))
        halves: list[float] = []
        events = 0

        def counted(record: Any) -> None:
            nonlocal events
            events += 1
            if events % MARK == 0:
                halves.append(time.process_time())

        driver.listeners = (counted,)
        with timed(told, "begin"):
            first = begin(config, "load")
        began = time.process_time()
        with timed(told, "run"):
            assert driver.run(first, joined(room, 0)) == "done"
        journal.close()
        told["events"] = events
        told["journal_mb"] = round(path.stat().st_size / 1e6, 1)
        told["us_an_event"] = round(1e6 * (told["run_s"]) / events, 1)
        steps = [b - a for a, b in zip([began, *halves], halves, strict=False)]
        if len(steps) > 3:
            told["last_over_first"] = round(steps[-1] / steps[1], 2)
        with timed(told, "read"):
            for _ in read(path):
                pass
        with timed(told, "report"):
            report(record for record, _ in read(path))
        with timed(told, "projection"):
            projection = Projection()
            for record, _ in read(path):
                projection.add(record)
        again = Journal(path, disk=disk)
        with timed(told, "resume"):
            Driver(config, again, FakeExecutor(room=room)).run(takeover(room, 0))
        again.close()
        told["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return told


MARK = 2000
"""Events between two looks at the clock."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("lanes", 200), ("stages", 50), ("intervals", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--evaluation", default="all")
    parser.add_argument("--sync", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    config = wide(given.lanes, given.stages, given.intervals, given.evaluation)
    told = vars(given) | measure(config, given.lanes, DISK if given.sync else Unsynced())
    if not given.json:
        for name, value in told.items():
            print(f"{name:18} {value}")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
