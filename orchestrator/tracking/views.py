"""What a person sees in the MLflow UI: notes, colours, saved views and the links to them.

Pure text; knows no client. The format of saved views is MLflow's own and undocumented: they are a
convenience, nothing depends on them.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shlex
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from orchestrator.report.comparisons import COMPARISONS
from orchestrator.report.text import Links, failure_text, part_text
from workers.contract import Json

NOTE_LIMIT = 7500
"""Characters of a note; MLflow cuts longer ones off silently."""
HEADLINES = ("acc.final", "forgetting.max", "bwt.gem", "learning_accuracy")
"""Metrics that notes and tables show first."""
NOTED = (*HEADLINES, *COMPARISONS)
"""Metrics that notes show where a lane has them."""
NOTED_EDITS = 4
"""Edits of a stage that its lane's note shows."""
VIEW_PREFIX = "mlflow.sharedViewState."
UI_PORT = 5000
LOCAL_UI = f"http://127.0.0.1:{UI_PORT}"


# ---------------------------------------------------------------- notes and tables


def lane_note(lane: Json, run_id: str, figures: Sequence[str], run_dir: Path) -> str:
    """Markdown of a lane: one headline, its figures, the matrix, how to see more."""
    scores = lane["metrics"]
    shown = " · ".join(f"{name} **{scores[name]:.3f}**" for name in NOTED if name in scores)
    learnt = sum(stage["status"] == "done" for stage in lane["stages"])
    grown = sum(len(stage["edits"]) for stage in lane["stages"])
    head = f"{shown or 'not measured yet'} · stages learnt: {learnt} · edits: {grown}"
    why = [failure_text(lane)] if lane["status"] == "failed" else []
    why += [rests] if (rests := part_text(lane)) else []
    images = [f"![{path}](get-artifact?path={path}&run_uuid={run_id})" for path in figures]
    edits = [
        f"- {stage['index']:02d} {stage['task']}, after interval {edit['after_interval']}: "
        f"{edit['text']}: {cause(edit)}"
        for stage in lane["stages"]
        for edit in stage["edits"][:NOTED_EDITS]
    ]
    body = ["Score on each task (column) after each stage (row):", _matrix_table(lane)]
    body += ["\n".join(edits)] if edits else []
    return _fit(
        [head, *why, *images, *body, f"```\ngrowstage show {shlex.quote(str(run_dir))}\n```"]
    )


def cause(edit: Json) -> str:
    """What an edit was made because of: ``plateau (slope)``."""
    return f"{edit['cause']['policy']} ({edit['cause']['trigger']})"


def causes(lanes: Iterable[Json]) -> str:
    """Causes of all growth of these lanes, each with its number; empty where nothing grew."""
    found = Counter(
        cause(edit)
        for lane in lanes
        for stage in lane["stages"]
        for edit in stage["edits"]
        if edit["noun"] == "growth"
    )
    return ", ".join(f"{text}: {count}" for text, count in found.most_common())


def stage_note(stage: Json) -> str:
    """Markdown of a stage: its data and what was changed in the model on the way."""
    data = f"Trained on {stage['data']['source']} (data {stage['data']['digest'][:16]})"
    if stage["adopted_from"]:
        data += f"\n\nNot trained here: taken over from {stage['adopted_from']}."
    edits = [_edit_line(edit) for edit in stage["edits"]]
    return _fit([data, "\n".join(edits)] if edits else [data])


def _edit_line(edit: Json) -> str:
    sizes = edit["before"]["parameters"], edit["after"]["parameters"]
    return (
        f"- after interval {edit['after_interval']}: **{edit['text']}**, "
        f"{sizes[0]} → {sizes[1]} parameters, because of "
        f"{cause(edit)}; fingerprint {edit['fingerprint']}"
    )


def run_note(report: Json, links: Mapping[str, str], figures: Sequence[str], run_id: str) -> str:
    """Markdown of a run: its state and a table of lanes with links."""
    names = [name for name in NOTED if any(name in x["metrics"] for x in report["lanes"])]
    head = (
        f"**{report['status']}** · {len(report['lanes'])} lanes · config {report['config_digest']}"
    )
    rows = [
        [
            f"[{lane['lane']}]({links[lane['lane']]})" if lane["lane"] in links else lane["lane"],
            lane["status"],
            *(f"{lane['metrics'][n]:.3f}" if n in lane["metrics"] else "" for n in names),
        ]
        for lane in report["lanes"]
    ]
    images = [f"![{path}](get-artifact?path={path}&run_uuid={run_id})" for path in figures]
    return _fit([head, *images, _table(["lane", "status", *names], rows)])


def model_note(parents: Sequence[str], experiment: str) -> str:
    """Markdown of a model: where it came from."""
    if not parents:
        return "The untrained model of its lane."
    links = [f"[{parent}](#/experiments/{experiment}/models/{parent})" for parent in parents]
    return f"{'Grown out of' if len(links) == 1 else 'Made of'} {', '.join(links)}"


def lanes_csv(report: Json) -> str:
    """One row per lane (method, seed) with every metric: ``lanes.csv``."""
    names = sorted({name for lane in report["lanes"] for name in lane["metrics"]})
    head = ["method", "seed", "lane", "status", "stages", "edits", "seconds", *names]
    rows = [
        [
            lane["method"],
            lane["seed"],
            lane["lane"],
            lane["status"],
            sum(stage["status"] == "done" for stage in lane["stages"]),
            sum(len(stage["edits"]) for stage in lane["stages"]),
            round(sum(stage["seconds"] for stage in lane["stages"]), 3),
            *(lane["metrics"].get(name, "") for name in names),
        ]
        for lane in report["lanes"]
    ]
    return _csv([head, *rows])


def matrix_csv(lane: Json) -> str:
    """The matrix with a row for the untrained model: ``matrix.csv``."""
    rows = [["untrained", *lane["initial"]]] if lane["initial"] else []
    rows += [[name, *row] for name, row in zip(_row_names(lane), lane["matrix"], strict=True)]
    return _csv([["after", *lane["tasks"]], *rows])


def matrix_table(lane: Json) -> Json:
    """The matrix in the layout of MLflow's table artifacts, which its UI lays side by side."""
    names = _row_names(lane)
    data = [[name, *row] for name, row in zip(names, lane["matrix"], strict=True)]
    return {"columns": ["after", *lane["tasks"]], "data": data}


def _row_names(lane: Json) -> list[str]:
    names = {stage["index"]: stage["task"] for stage in lane["stages"]}
    return [f"{i:02d} {names.get(i, '')}".strip() for i in range(len(lane["matrix"]))]


def _matrix_table(lane: Json) -> str:
    rows = [["untrained", *lane["initial"]]] if lane["initial"] else []
    rows += [[name, *row] for name, row in zip(_row_names(lane), lane["matrix"], strict=True)]
    text = [[x if isinstance(x, str) else "" if x is None else f"{x:.3f}" for x in r] for r in rows]
    return _table(["after", *lane["tasks"]], text)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in x) + " |" for x in lines)


def _fit(parts: Sequence[str]) -> str:
    """Join as many parts as a note holds; a part too long for it is left to the artifacts."""
    text = ""
    for part in parts:
        if len(text) + len(part) + 2 <= NOTE_LIMIT:
            text += part + "\n\n"
    return text.strip()


def _csv(rows: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


# ---------------------------------------------------------------- saved views and links

GROWN_BY = "growth.causes"
"""Tag of a lane and of a run: what growth was made because of, and how often."""
LANE_COLUMNS = [
    "tags.`method`",
    "tags.`seed`",
    f"tags.`{GROWN_BY}`",
    *(f"metrics.`{name}`" for name in HEADLINES),
    "metrics.`parameters`",
]
STAGE_COLUMNS = [
    "tags.`stage.index`",
    "tags.`task`",
    "tags.`domain`",
    "attributes.`Models`",
    "metrics.`experts`",
]
TRIAL_COLUMNS = [
    "tags.`trial.attempt`",
    "metrics.`objective`",
    *(f"metrics.`{name}`" for name in HEADLINES),
    "metrics.`experts`",
]
COUNTED = "counted"
"""Tag of a lane: whether it counts in means over seeds, or a later one with its settings and seed
does."""
_LANES = "tags.level = 'lane'"
_BY_GROUP = {
    "aggregateFunction": "average",
    "groupByKeys": [{"mode": "tag", "groupByData": "group"}],
}
VIEWS: dict[str, Json] = {
    "tree": {"name": "Tree", "selectedColumns": LANE_COLUMNS},
    "lanes": {
        "name": "Lanes",
        "searchFilter": _LANES,
        "orderByKey": "metrics.`acc.final`",
        "selectedColumns": LANE_COLUMNS,
    },
    "methods": {
        "name": "Methods (mean over seeds)",
        "searchFilter": f"{_LANES} AND tags.{COUNTED} = 'yes'",
        "orderByKey": "metrics.`acc.final`",
        "selectedColumns": LANE_COLUMNS,
        "groupBy": _BY_GROUP,
    },
    "trials": {
        "name": "Trials",
        "searchFilter": "tags.level = 'trial'",
        "orderByKey": "metrics.`objective`",
        "selectedColumns": TRIAL_COLUMNS,
    },
    "stages": {
        "name": "Stages",
        "searchFilter": "tags.level = 'stage'",
        "orderByKey": "tags.`stage.index`",
        "orderByAsc": True,
        "selectedColumns": STAGE_COLUMNS,
    },
}
"""Saved views of the runs page, by the key in their link."""

_STATE: Json = {
    "searchFilter": "",
    "orderByKey": "attributes.start_time",
    "orderByAsc": False,
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "datasetsFilter": [],
    "modelVersionFilter": "All Runs",
    "selectedColumns": [],
    "columnOrder": [],
    "columnWidths": {},
    "runsHiddenMode": "SHOWALL",
    "viewMaximized": False,
    "runListHidden": False,
    "isAccordionReordered": False,
    "useGroupedValuesInCharts": True,
    "hideEmptyCharts": True,
    "groupBy": None,
    "groupsExpanded": {},
    "runsExpanded": {},
    "globalLineChartConfig": {
        "xAxisKey": "step",
        "lineSmoothness": 0,
        "selectedXAxisMetricKey": "",
    },
}


def saved_views(at: int) -> dict[str, str]:
    """Experiment tags that put the views into the UI's Views menu; ``at`` in milliseconds."""
    tags = {}
    for key, view in VIEWS.items():
        changes = {name: value for name, value in view.items() if name != "name"}
        packed = zlib.compress(json.dumps({**_STATE, **changes}).encode())
        state = "deflate;" + base64.b64encode(packed).decode()
        value = {"name": view["name"], "createdAt": at, "updatedAt": at, "state": state}
        tags[VIEW_PREFIX + key] = json.dumps(value)
    return tags


def links(uri: str, experiment: str, port: int = UI_PORT) -> Links:
    """Links into the UI of the store at ``uri``; a file store needs the command first."""
    served = uri.startswith(("http://", "https://"))
    base = uri.rstrip("/") if served else f"http://127.0.0.1:{port}"
    runs = (
        f"{base}/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey="
    )
    return Links(
        command=None if served else ui_command(uri, port),
        tree=f"{runs}tree",
        lanes=f"{runs}lanes&compareRunsMode=CHART",
        methods=f"{runs}methods",
        trials=f"{runs}trials&compareRunsMode=CHART",
    )


def ui_command(uri: str, port: int = UI_PORT) -> str:
    """The light way to serve the UI of a file store: one worker, no job runner."""
    return (
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true "
        f"mlflow ui --workers 1 --host 127.0.0.1 --port {port} --backend-store-uri "
        f"{shlex.quote(uri)}"
    )


def file_name(name: str) -> str:
    """A folder name for any experiment name."""
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII).lstrip(".") or "experiment"
