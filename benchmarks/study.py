"""Table of a study: what the lanes of a run came to, mean over seeds with 95 % intervals.

    python benchmarks/study.py RUN [--against WORD] [--of COLUMN] [--columns A,B] [--json]

A lane is a group and a variant, ``"mnist descending"``; rows are lanes without their seed. Values
are those of the last stage: ``score`` on its test part (on the last task's where stages are slices
of a stream), ``steps to 95 %`` (first interval whose
training score is 95 % of the last interval's), parameters, and diagnostics as mean over layers
(``active_flops``: the sum). Of a stream of several tasks also metrics of the whole matrix, the
kilobytes of the method's state, the score in training at the end of the last stage, its mean over
stages, its change from the first to the last, its least-squares slope over stages and the mean of
the last three over that of the first three. Seconds of training are those of the workers'
intervals; a stage that lanes share counts for each.
``--against WORD``: differences of ``--of`` (a column, ``score`` if absent) to the row of the same
group whose variant is WORD, seed by seed. Half widths by Student's t.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

OF_LAYERS = {
    "experts_per_token": "mean k",
    "routing_patterns": "patterns",
    "marginal_entropy": "usage entropy",
    "conditional_entropy": "conditional entropy",
    "load_cv": "load CV",
    "gate_gradient_variance": "gate gradient variance",
    "dormant_ratio": "dormant",
    "dormant_ratio_0.1": "dormant at 0.1",
    "srank": "srank",
}
"""Diagnostic -> column: mean over layers."""
OF_STREAM = {"train.slope": "slope in training", "train.ratio": "ratio in training"}
"""Figure of ``trainability`` -> column."""
OF_MATRIX = {
    "acc.final": "accuracy",
    "forgetting.max": "forgetting",
    "learning_accuracy": "learning accuracy",
}
"""Metric of the matrix of a stream of several tasks -> column."""
SCORES = (
    "score",
    *OF_MATRIX.values(),
    "in training",
    "mean in training",
    "kept in training",
    *OF_STREAM.values(),
)
FINE = {*SCORES, "dormant", "dormant at 0.1"}
"""Columns told to four digits."""
COLUMNS = (
    *SCORES,
    "method kB",
    "perplexity",
    "steps to 95 %",
    "kparameters",
    "kFLOPs a token",
    *OF_LAYERS.values(),
    "seconds",
)
Row = dict[str, dict[int, float]]
"""Column -> seed -> value."""


def told(values: Iterable[float], digits: int = 3) -> str:
    """Mean and half width of the 95 % interval."""
    from orchestrator.report.statistics import estimate

    found = estimate(values)
    return "-" if found is None else found.text(digits)


def steps_to(scores: list[tuple[int, float]], share: float = 0.95) -> float:
    """Steps after which the training score first is so much of the last one."""
    return float(next(steps for steps, score in scores if score >= share * scores[-1][1]))


def trained(levels: list[float]) -> dict[str, float]:
    """Column -> value of the scores in training at the ends of a lane's stages."""
    if len(levels) < 2:
        return {}
    return {
        "in training": levels[-1],
        "mean in training": statistics.mean(levels),
        "kept in training": levels[-1] - levels[0],
    }


def measured(lane: Any, scores: list[tuple[int, float]], parameters: int) -> dict[str, float]:
    """Column -> value of one lane that was trained to its end; ``parameters``: when opened."""
    stage = lane["stages"][-1]
    figures = {**stage["model_figures"], **stage["figures"].get(stage["task"], {})}
    row = lane["matrix"][-1]
    found = {
        "score": row[min(stage["index"], len(row) - 1)],
        "steps to 95 %": steps_to(scores),
        "kparameters": size_at_end(lane, parameters) / 1000,
    }
    over = lane["trainability"]
    found |= {column: over[name] for name, column in OF_STREAM.items() if name in over}
    if "perplexity" in figures:
        found["perplexity"] = figures["perplexity"]
    if "active_flops/all/total" in figures:
        found["kFLOPs a token"] = figures["active_flops/all/total"] / 1000
    for diagnostic, column in OF_LAYERS.items():
        names = (name.split("/") for name in figures)
        layers = [name[1] for name in names if name[0] == diagnostic and len(name) == 2]
        if layers:
            found[column] = statistics.mean(figures[f"{diagnostic}/{layer}"] for layer in layers)
    return found


def size_at_end(lane: Any, opened: int) -> int:
    """Parameters of the lane's last model; ``opened``: when the lane was opened."""
    edits = [edit for stage in lane["stages"] for edit in stage["edits"]]
    size: int = edits[-1]["after"]["parameters"] if edits else opened
    return size


def of_stream(lane: Any) -> dict[str, float]:
    """Column -> value of one lane over several tasks: metrics of its matrix, and kilobytes of its
    method's state in the last checkpoint, if that is still there."""
    if len(lane["stages"]) < 2:
        return {}
    found = {column: lane["metrics"][metric] for metric, column in OF_MATRIX.items()}
    folder = Path(lane["stages"][-1]["checkpoint"]["uri"].removeprefix("file://"))
    state = folder / "method.safetensors"
    if state.is_file():
        names = int.from_bytes(state.read_bytes()[:8], "little")  # bytes of the format's header
        found["method kB"] = (state.stat().st_size - 8 - names) / 1000
    return found


def study(run: str) -> dict[str, Row]:
    """Lane without its seed -> its row."""
    from orchestrator.core.events import IntervalDone, LaneOpened
    from orchestrator.core.folder import open_folder
    from orchestrator.core.journal import JOURNAL_FILE, read
    from orchestrator.session import report_of

    scores: dict[str, dict[str, dict[int, tuple[int, float]]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    seconds: dict[str, dict[int, float]] = defaultdict(dict)
    parameters: dict[str, int] = {}
    for record, _ in read(open_folder(run).path / JOURNAL_FILE):
        event = record.event
        if isinstance(event, IntervalDone):
            done = event.report
            scores[event.lane][done.stage][done.n] = done.steps, done.signals["train_score"]
            seconds[done.stage][done.n] = done.seconds
        elif isinstance(event, LaneOpened):
            parameters[event.lane] = event.report.shape.parameters
    rows: dict[str, Row] = defaultdict(lambda: defaultdict(dict))
    lanes = report_of(run)["lanes"]
    owner = {s["id"]: s["trained_by"] or lane["lane"] for lane in lanes for s in lane["stages"]}
    for lane in lanes:
        if lane["status"] != "done":
            print(f"{lane['lane']}: {lane['status']}, left out", file=sys.stderr)
            continue
        name = lane["lane"]
        courses = [list(scores[owner[s["id"]]][s["id"]].values()) for s in lane["stages"]]
        found = measured(lane, courses[-1], parameters[name])
        found |= trained([course[-1][1] for course in courses if course])
        found |= of_stream(lane)
        found["seconds"] = sum(sum(seconds[s["id"]].values()) for s in lane["stages"])
        for column, value in found.items():
            rows[name.removesuffix(f"-s{lane['seed']}")][column][lane["seed"]] = value
    return rows


def differences(rows: dict[str, Row], word: str, column: str) -> dict[str, list[float]]:
    """Lane -> its value in the column less that of its group's ``word``, for each seed that both
    have."""
    found = {}
    for name, row in rows.items():
        group, _, variant = name.partition(" ")
        other = rows.get(f"{group} {word}")
        if other is not None and variant != word:
            ours, theirs = row[column], other[column]
            found[name] = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run")
    parser.add_argument("--against", default=None)
    parser.add_argument("--of", default="score")
    parser.add_argument("--columns", default="", help="of the table, with commas; all if absent")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = study(given.run)
    against = {} if given.against is None else differences(rows, given.against, given.of)
    if given.json:
        print(json.dumps({"rows": rows, "differences": against}))
        return
    wanted = given.columns.split(",") if given.columns else COLUMNS
    names = [column for column in wanted if any(column in row for row in rows.values())]
    more = [] if given.against is None else [f"{given.of} less {given.against}"]
    print(f"| lane | {' | '.join([*names, *more])} |\n|---|{'---|' * len([*names, *more])}")
    for lane, row in rows.items():
        cells = [told(row[name].values(), 4 if name in FINE else 2) for name in names]
        cells += [told(against.get(lane, ()), 4)] * len(more)
        print(f"| {lane} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
