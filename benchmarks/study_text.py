"""Figures of a run of ``configs/text_domains.toml``: what domains gained, what the base lost.

    python benchmarks/study_text.py RUN [--json]

Bits per byte on test parts, mean over seeds with the half width of the 95 % interval (Student's t).
Base: change by all that followed its stage. Domains: mean over the lane's domains at the end; their
value before is that of the base model. Overlap: mean Jaccard index of two domains' masks over pairs
and layers, after the last refresh.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.study import told  # noqa: E402

FIGURE = "bits_per_byte"


def bits(stage: Any, domain: str) -> float:
    """Bits per byte on a domain after a stage."""
    figures: Any = stage["figures"]
    found = figures[domain][FIGURE] if domain in figures else figures["joint"][f"{FIGURE}/{domain}"]
    return float(found)


def domains_of(lane: Any) -> list[str]:
    """The lane's domains, the base left out."""
    figures = lane["stages"][-1]["figures"]
    joint = [name.partition("/")[2] for name in figures.get("joint", {}) if f"{FIGURE}/" in name]
    return joint or [task for task in figures if task not in ("base", "joint")] or ["joint"]


def overlap(lane: Any) -> float | None:
    """Mean Jaccard index of the masks of two domains."""
    masks = [e for s in lane["stages"] for e in s["edits"] if e["kind"] == "refresh_mask"]
    if not masks:
        return None
    shares = []
    for rows in masks[-1]["masks"].values():
        of = [row for name, row in zip(masks[-1]["domains"], rows, strict=True) if name != "base"]
        chosen = [{place for place, on in enumerate(row) if on} for row in of]
        shares += [len(a & b) / len(a | b) for a, b in combinations(chosen, 2)]
    return statistics.mean(shares) if shares else None


def measured(lane: Any) -> dict[str, float]:
    """The figures of one lane."""
    base, last = lane["stages"][0], lane["stages"][-1]
    domains = domains_of(lane)
    found = {
        "base before": base["figures"]["base"][FIGURE],
        "base change": last["figures"]["base"][FIGURE] - base["figures"]["base"][FIGURE],
        "domains before": statistics.mean(bits(base, name) for name in domains),
        "domains after": statistics.mean(bits(last, name) for name in domains),
    }
    shared = overlap(lane)
    return found if shared is None else found | {"overlap": shared}


def study(report: Any) -> dict[str, dict[str, list[float]]]:
    """Lane without its seed -> figure -> value of each seed; one row for all lanes ``only-*``."""
    seeds: dict[str, dict[int, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for lane in report["lanes"]:
        name = lane["lane"].removesuffix(f"-s{lane['seed']}")
        name = "one model a domain" if name.startswith("only-") else name
        if lane["status"] == "done":
            seeds[name][lane["seed"]].append(measured(lane))
    found: dict[str, dict[str, list[float]]] = {}
    for name, by_seed in seeds.items():
        rows = [
            {key: statistics.mean(one[key] for one in several) for key in several[0]}
            for several in by_seed.values()
        ]
        found[name] = {key: [row[key] for row in rows] for key in rows[0]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    from orchestrator.session import report_of

    rows = study(report_of(given.run))
    if given.json:
        print(json.dumps(rows))
        return
    names = ("base change", "domains before", "domains after", "overlap")
    print(f"| lane | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for lane, figures in rows.items():
        print(f"| {lane} | {' | '.join(told(figures.get(name, ())) for name in names)} |")
    base = next(iter(rows.values()))["base before"]
    print(f"\nbase before: {told(base)} bits per byte, {len(base)} seed(s)")


if __name__ == "__main__":
    main()
