"""``python -m tests.chaos.table FILE...``: what campaigns came to, as docs/reliability.md has it.

Each FILE holds what ``python -m tests.chaos`` printed; one that was cut short counts as far as it
came.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

BAD = ("LOST", "REPEATED", "FAILED")
OUTCOME = re.compile(
    r"^\d+ (?P<kind>[^,]+), (?P<stream>[^:]+): "
    r"(?:whole again after (?P<seconds>[\d.]+) s|(?P<bad>LOST|REPEATED|FAILED):)"
)
HEAD = "| fault | injected | lost | repeated | failed | seconds until whole, mean (most) |"


def added(texts: Iterable[str]) -> dict[str, tuple[list[float], dict[str, int]]]:
    """Kind -> seconds of those that were whole again, and how many were not, by how."""
    found: dict[str, tuple[list[float], dict[str, int]]] = {}
    for text in texts:
        if (told := OUTCOME.match(text)) is not None:
            seconds, bad = found.setdefault(told["kind"], ([], dict.fromkeys(BAD, 0)))
            if told["bad"]:
                bad[told["bad"]] += 1
            else:
                seconds.append(float(told["seconds"]))
    return found


def lines(found: Mapping[str, tuple[list[float], Mapping[str, int]]]) -> Iterator[str]:
    """The table, a line a kind in order of their names, and a last one of all."""
    yield HEAD
    yield "|---" * HEAD.count(" | ") + "|---|"
    for kind, (seconds, bad) in sorted(found.items()):
        took = f"{sum(seconds) / len(seconds):.0f} ({max(seconds):.0f})" if seconds else ""
        counts = " | ".join(str(bad[name]) for name in BAD)
        yield f"| {kind} | {len(seconds) + sum(bad.values())} | {counts} | {took} |"
    sums = {name: sum(bad[name] for _, bad in found.values()) for name in BAD}
    whole = sum(len(seconds) for seconds, _ in found.values())
    yield f"| all | {whole + sum(sums.values())} | {' | '.join(map(str, sums.values()))} | |"


if __name__ == "__main__":
    texts = (text for path in sys.argv[1:] for text in Path(path).read_text().splitlines())
    print("\n".join(lines(added(texts))))
