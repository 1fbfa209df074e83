"""Table of the triggers study: when lanes grew, against when their streams truly shifted.

    python benchmarks/triggers.py RUN [--window STEPS] [--json]

A lane is what is shown and a trigger, ``"hidden adwin"``; rows are lanes without their seed, with
mean and half width of the 95 % interval over seeds (Student's t). A growth within ``--window``
steps after a shift that none answered yet is a detection, and its delay the steps between; every
other one is false, as all are on a stationary stream. Shifts are where the true tasks of a hidden
stream change; of blurred ones the middle.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.study import Row, size_at_end, told  # noqa: E402

COLUMNS = (
    "growths",
    "false in 10k steps",
    "shifts found",
    "delay in steps",
    "learning accuracy",
    "final accuracy",
    "kparameters",
)
STATIONARY = "stationary"
"""First word of lanes whose tasks are all alike."""


class Answered(NamedTuple):
    """Growths of a lane against the shifts of its stream."""

    delays: list[int]
    """Steps from each shift that was found to the growth that found it."""
    false: int


def answered(growths: Sequence[int], shifts: Sequence[int], window: int) -> Answered:
    """Each growth (step of the lane) is given to the last shift before it, if that is at most
    ``window`` steps ago and has none yet."""
    found: dict[int, int] = {}
    for step in growths:
        before = [shift for shift in shifts if shift <= step <= shift + window]
        if before and before[-1] not in found:
            found[before[-1]] = step - before[-1]
    return Answered(list(found.values()), len(growths) - len(found))


def grown_at(lane: Any) -> list[int]:
    """Steps of the lane at which experts were added."""
    found, before = [], 0
    for stage in lane["stages"]:
        for edit in stage["edits"]:
            if edit["kind"] == "grow":
                done = edit["after_interval"] / max(1, stage["intervals"])
                found.append(before + round(stage["steps"] * done))
        before += stage["steps"]
    return found


def shifts_of(settings: Any) -> list[int]:
    """Steps of the lane after which its true task is another one."""
    stream = settings.stream()
    return [end // settings.sections["training"].batch for end in stream.boundaries()[:-1]]


def study(run: str, window: int) -> dict[str, Row]:
    """Lane without its seed -> its row."""
    from orchestrator.config.file import restore
    from orchestrator.core.events import LaneOpened
    from orchestrator.core.folder import open_folder
    from orchestrator.core.journal import JOURNAL_FILE, first_record, read
    from orchestrator.session import report_of

    folder = open_folder(run).path
    started = first_record(folder)
    assert started is not None, f"{run}: no journal there"
    config, parameters = restore(started.config), {}
    for record, _ in read(folder / JOURNAL_FILE):
        if isinstance(record.event, LaneOpened):
            parameters[record.event.lane] = record.event.report.shape.parameters
    rows: dict[str, Row] = defaultdict(lambda: defaultdict(dict))
    for lane in report_of(run)["lanes"]:
        if lane["status"] != "done":
            print(f"{lane['lane']}: {lane['status']}, left out", file=sys.stderr)
            continue
        name, seed = lane["lane"].removesuffix(f"-s{lane['seed']}"), lane["seed"]
        shifts = [] if name.startswith(STATIONARY) else shifts_of(config.lane(lane["lane"]))
        growths = grown_at(lane)
        found = answered(growths, shifts, window)
        steps = sum(stage["steps"] for stage in lane["stages"])
        values = {
            "growths": float(len(growths)),
            "false in 10k steps": 1e4 * found.false / steps,
            "learning accuracy": lane["metrics"]["learning_accuracy"],
            "final accuracy": lane["metrics"]["acc.final"],
            "kparameters": size_at_end(lane, parameters[lane["lane"]]) / 1000,
        }
        if shifts:
            values["shifts found"] = len(found.delays) / len(shifts)
        if found.delays:
            values["delay in steps"] = sum(found.delays) / len(found.delays)
        for column, value in values.items():
            rows[name][column][seed] = value
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run")
    parser.add_argument("--window", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = study(given.run, given.window)
    if given.json:
        print(json.dumps(rows))
        return
    print(f"| lane | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for lane, row in rows.items():
        cells = [told(row[name].values(), 3 if "accuracy" in name else 1) for name in COLUMNS]
        print(f"| {lane} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
