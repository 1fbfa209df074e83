"""``make fuzz [N=...] [SEED=...] [TARGETS="idx zip"]``: hostile input for everything that reads.

One line a target: executions, how many were refused in words, findings. The last line is one JSON
object. A process may use MEMORY bytes more than it starts with, so that a bomb is a finding.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.attack import attack
from tests.fuzz.targets import TARGETS

MEMORY = 4 << 30


def main(count: int, number: int, names: Sequence[str]) -> int:
    """Feed each target ``count`` inputs drawn from seed ``number``; the number of findings."""
    unknown = set(names) - set(TARGETS)
    if unknown:
        raise SystemExit(f"no target {sorted(unknown)}; there are: {', '.join(TARGETS)}")
    _bounded()
    warnings.simplefilter("ignore")
    found, told = 0, {}
    for name in names or TARGETS:
        target, began = TARGETS[name], time.monotonic()
        outcome = attack(target, max(1, count // (10 if target.slow else 1)), number)
        told[name] = {"executions": outcome.executions, "findings": len(outcome.findings)}
        found += len(outcome.findings)
        seconds = time.monotonic() - began
        print(
            f"{name}: {outcome.executions} executions, {outcome.refused} refused, "
            f"{len(outcome.findings)} findings, {seconds:.1f} s",
            flush=True,
        )
        for place, value in outcome.findings.items():
            print(f"  {place}\n    {repr(value)[:300]}", flush=True)
    executions = sum(one["executions"] for one in told.values())
    print(json.dumps({"executions": executions, "findings": found, "targets": told}))
    return found


def _bounded() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(
        resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + MEMORY, resource.RLIM_INFINITY)
    )


if __name__ == "__main__":
    sys.exit(1 if main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]) else 0)
