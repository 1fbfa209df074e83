"""The tags, tables and figures of an MLflow run's page, made anew from the fold; no client here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator import figures, views
from orchestrator.lineage import TASKS_FILE
from orchestrator.projection import task_keys
from orchestrator.report import LaneFold, RunFold, edit_json
from workers.contract import Edit, EditReport

NOTE = "mlflow.note.content"
TABLES = "mlflow.loggedArtifacts"
"""Tag that lists the table artifacts MLflow's UI can lay side by side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What one run shows beside its metrics: artifacts by path, and tags."""

    texts: Mapping[str, str]
    images: Mapping[str, bytes] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


def stage_page(lane: LaneFold, index: int) -> Page:
    """The stage's edits."""
    edits = lane.stage_edits(lane.stages[index].spec.id)
    return Page(texts={"edits.json": _edits(edits)})


def lane_page(fold: RunFold, name: str, run: str, run_dir: Path) -> Page:
    """Edits, matrix, figures and note of a lane; ``run`` = id of its MLflow run."""
    lane = fold.lanes[name]
    told = next(item for item in fold.json()["lanes"] if item["lane"] == name)
    texts = {"edits.json": _edits(lane.edits.values())}
    images, tags = {}, {}
    if lane.rows:
        keys = dict(zip(task_keys(lane.tasks()), lane.tasks(), strict=True))
        texts["matrix.csv"] = views.matrix_csv(told)
        texts["tables/acc.json"] = json.dumps(views.matrix_table(told))
        texts[TASKS_FILE] = json.dumps(keys)
        images["figures/accuracy_matrix.png"] = figures.accuracy_matrix(told)
        images["figures/task_curves.png"] = figures.task_curves(told)
        tags[TABLES] = json.dumps([{"path": "tables/acc.json", "type": "table"}])
    shown = list(images)
    usage = [stage.usage for _, stage in sorted(lane.stages.items())]
    if any(usage):
        images["figures/gate_weights.png"] = figures.gate_weights(told, usage)
    tags[NOTE] = views.lane_note(told, run, shown, views.show_command(run_dir))
    return Page(texts=texts, images=images, tags=tags)


def run_page(fold: RunFold, run: str, experiment: str, lanes: Mapping[str, str]) -> Page:
    """Results and note of the whole run; ``lanes``: lane -> id of its MLflow run."""
    told = fold.json()
    links = {name: f"#/experiments/{experiment}/runs/{lane}" for name, lane in lanes.items()}
    images = {"figures/methods.png": figures.methods(told)} if told["status"] == "done" else {}
    note = views.run_note(told, links, list(images), run)
    return Page(texts={"results.csv": views.results_csv(told)}, images=images, tags={NOTE: note})


def _edits(pairs: Iterable[tuple[Edit, EditReport]]) -> str:
    return json.dumps([edit_json(*pair) for pair in pairs], indent=1)
