"""``make simulate N=... SEED=...``: so many histories, each a function of its seed.

The last line is one JSON object. A history that breaks a law is told with its seed and the faults
that it needs; ``N=1 SEED=...`` tells it again.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from tests.simulation.chance import FAULTS
from tests.simulation.history import tell
from tests.simulation.laws import check
from tests.simulation.runs import RUNS
from tests.simulation.trainer import in_place

MEMORY = "/dev/shm"
"""Where files lie that need not outlive the process."""


def live(seed: int, without: tuple[str, ...] = ()) -> tuple[int, Counter[str]]:
    """(records, faults by kind) of the history of this seed; raises where it broke a law."""
    random = Random(seed)
    run = random.choice(list(RUNS))
    place = MEMORY if os.path.isdir(MEMORY) else None
    with TemporaryDirectory(dir=place) as folder, in_place():
        seen = tell(random, run, Path(folder) / "run", without)
        return check(seen), seen.chance.faults


def needed(seed: int) -> list[str]:
    """Kinds of fault without which the history of this seed breaks no law."""
    found = []
    for kind in FAULTS:
        try:
            live(seed, (kind,))
        except Exception:
            continue
        found.append(kind)
    return found


def main(histories: int, first: int) -> int:
    """Number of histories that broke a law."""
    began, events, faults, broken = time.monotonic(), 0, Counter[str](), 0
    for seed in range(first, first + histories):
        try:
            records, met = live(seed)
        except Exception as error:
            broken += 1
            print(f"seed {seed}: {type(error).__name__}: {str(error)[:500]}", file=sys.stderr)
            if histories == 1:
                traceback.print_exc()
            continue
        events += records
        faults += met
    print(json.dumps(dict(sorted(faults.items()))))
    told = {
        "histories": histories,
        "events": events,
        "faults": faults.total(),
        "violations": broken,
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(told))
    return broken


if __name__ == "__main__":
    sys.exit(1 if main(int(sys.argv[1]), int(sys.argv[2])) else 0)
