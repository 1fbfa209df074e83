"""``python -m tests.chaos.table FILE``: what campaigns came to, as a table for docs/reliability.md.

FILE holds last lines of ``python -m tests.chaos``, one a line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

BAD = ("lost", "repeated", "failed")
HEAD = "| fault | injected | lost | repeated | failed | seconds until whole, mean (most) |"


def added(campaigns: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Kind -> counts over all campaigns, the sum of seconds and the most of them."""
    found: dict[str, dict[str, float]] = {}
    for campaign in campaigns:
        for kind, told in campaign["kinds"].items():
            sums = found.setdefault(kind, dict.fromkeys(("count", *BAD, "seconds", "most"), 0))
            for name in ("count", *BAD):
                sums[name] += told[name]
            well = told["count"] - sum(told[name] for name in BAD)
            sums["seconds"] += well * told["seconds"].get("mean", 0.0)
            sums["most"] = max(sums["most"], told["seconds"].get("most", 0.0))
    return found


def lines(found: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """The table, a line a kind in order of their names, and a last one of all."""
    yield HEAD
    yield "|---" * HEAD.count(" | ") + "|---|"
    for kind, sums in sorted(found.items()):
        well = sums["count"] - sum(sums[name] for name in BAD)
        took = f"{sums['seconds'] / well:.0f} ({sums['most']:.0f})" if well else ""
        yield f"| {kind} | {sums['count']} | {' | '.join(str(sums[x]) for x in BAD)} | {took} |"
    whole = [sum(sums[name] for sums in found.values()) for name in ("count", *BAD)]
    yield f"| all | {' | '.join(map(str, whole))} | |"


if __name__ == "__main__":
    told = [json.loads(text) for text in Path(sys.argv[1]).read_text().splitlines()]
    print("\n".join(lines(added(told))))
