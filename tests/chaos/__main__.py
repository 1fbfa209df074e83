"""``make chaos [N=...] [SEED=...] [KINDS="..."]``: faults on the real thing, one after another.

A line a fault; each kind comes as often as the others. The last line is one JSON object: how many
faults were injected, how many lost something, had something twice, or did not end as they must,
and for each kind the same and the seconds until the run was whole again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.faults import ALL, FAULTS, Fault, clock_library, strike
from tests.chaos.lab import Lab, Lost, Repeated

CPUS = 4
"""Of the cluster, whatever the machine has: what runs reserve is small."""


@contextmanager
def cluster() -> Iterator[str]:
    """Address of a local Ray for all runs that need none of their own."""
    import ray

    from orchestrator.cluster.local_ray import start

    start(
        {
            "num_cpus": CPUS,
            "include_dashboard": False,
            "log_to_driver": False,
            "logging_level": "ERROR",
            "object_store_memory": 200 * 2**20,
            "_node_ip_address": "127.0.0.1",
            "_system_config": {"prestart_worker_first_driver": False},
        }
    )
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        ray.shutdown()


def kinds(count: int, random: Random, named: Sequence[str], streams: Sequence[str]) -> list[str]:
    """So many kinds, each as often as the others, in a drawn order."""
    asked = list(named or FAULTS)
    able = [name for name in asked if FAULTS[name].within(streams) and possible(FAULTS[name])]
    if out := [name for name in asked if name not in able]:
        told = "not on these streams, or not possible here (root, libfaketime), left out"
        print(f"{told}: {', '.join(out)}", flush=True)
    if not able:
        raise SystemExit("no kind of fault is possible here")
    found: list[str] = []
    while len(found) < count:
        found += random.sample(able, len(able))
    return found[:count]


def possible(fault: Fault) -> bool:
    """Whether this machine and user can do it."""
    lacks_clock = fault.needs_clock and clock_library() is None
    return not lacks_clock and (os.geteuid() == 0 or not fault.needs_root)


def main(
    count: int, number: int, named: Sequence[str], streams: Sequence[str], seconds: float
) -> int:
    """Inject ``count`` faults drawn from seed ``number``, none once ``seconds`` are over; how many
    did not end well."""
    from orchestrator.tracking.tracker import Tracker

    told: dict[str, dict[str, Any]] = {}
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="gs") as folder, cluster() as address:
        template = Path(folder) / "template"
        template.mkdir()
        Tracker(template / "none", None).connect()
        lab = Lab(Path(folder), address, template / "mlflow.db")
        for place, kind in enumerate(kinds(count, Random(number), named, streams)):
            if time.monotonic() > deadline:
                break
            entry = told.setdefault(
                kind, {"count": 0, "lost": 0, "repeated": 0, "failed": 0, "seconds": []}
            )
            entry["count"] += 1
            try:
                took = strike(lab, kind, Random(f"{number}/{place}"), streams)
            except Lost as error:
                outcome = f"LOST: {error}"
                entry["lost"] += 1
            except Repeated as error:
                outcome = f"REPEATED: {error}"
                entry["repeated"] += 1
            except Exception as error:  # goes on: one fault tells nothing of the others
                outcome = f"FAILED: {type(error).__name__}: {error}"
                entry["failed"] += 1
            else:
                outcome = f"whole again after {took:.1f} s"
                entry["seconds"].append(round(took, 1))
            print(f"{place} {kind}, {lab.last}: {outcome[:3000]}", flush=True)
    sums = {
        name: sum(one[name] for one in told.values()) for name in ("lost", "repeated", "failed")
    }
    injected = sum(entry["count"] for entry in told.values())
    for entry in told.values():
        times = entry.pop("seconds")
        entry["seconds"] = (
            {"mean": round(sum(times) / len(times), 1), "most": max(times)} if times else {}
        )
    print(json.dumps({"injected": injected, "seed": number, **sums, "kinds": told}))
    return sum(sums.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("seed", type=int)
    parser.add_argument("kinds", nargs="*", help="none = all", metavar="KIND")
    parser.add_argument("--stream", action="append", choices=ALL, help="what is disturbed; all")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no fault after")
    given = parser.parse_intermixed_args()
    sys.exit(
        1 if main(given.count, given.seed, given.kinds, given.stream or ALL, given.seconds) else 0
    )
