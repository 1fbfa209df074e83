"""The tags, tables and figures of an MLflow run's page, from the history; no client here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.report import domain_figures, figures
from orchestrator.report.history import RunHistory, edit_json
from orchestrator.report.lane_history import LaneHistory
from orchestrator.tracking import views
from orchestrator.tracking.lineage import TASKS_FILE
from orchestrator.tracking.naming import task_keys
from workers.contract import EditReport, Json
from workers.edits import Edit, RefreshMask

NOTE = "mlflow.note.content"
FIGURES = ("figures/accuracy_matrix.png", "figures/task_curves.png")
"""Figures that a lane's note shows."""
TABLES = "mlflow.loggedArtifacts"
"""Tag that lists the table artifacts MLflow's UI can lay side by side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What one run shows beside its metrics: artifacts by path, and tags."""

    texts: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, bytes] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


def stage_page(history: RunHistory, lane: LaneHistory, index: int) -> Page:
    """Edits and note of a stage."""
    told = history.stage_json(lane, index)
    edits = lane.stage_edits(lane.stages[index].id)
    return Page(texts={"edits.json": _edits(edits)}, tags={NOTE: views.stage_note(told)})


def lane_page(history: RunHistory, name: str, run: str, run_dir: Path) -> Page:
    """Edits, matrix and note of a lane; ``run`` = id of its MLflow run."""
    lane = history.lanes[name]
    told = history.lane_json(lane)
    texts = {"edits.json": _edits(lane.edits.values())}
    tags = {NOTE: views.lane_note(told, run, FIGURES if lane.rows else (), run_dir)}
    tags |= _grown([told])
    if lane.rows:
        keys = dict(zip(task_keys(tuple(lane.tasks)), lane.tasks, strict=True))
        texts["matrix.csv"] = views.matrix_csv(told)
        texts["tables/acc.json"] = json.dumps(views.matrix_table(told))
        texts[TASKS_FILE] = json.dumps(keys)
        tags[TABLES] = json.dumps([{"path": "tables/acc.json", "type": "table"}])
    return Page(texts=texts, tags=tags)


def lane_figures(history: RunHistory, name: str) -> Page:
    """The figures of a lane that was measured: half a second of drawing."""
    lane = history.lanes[name]
    told = history.lane_json(lane)
    images = {}
    if lane.rows:
        drawings = (figures.accuracy_matrix(told), figures.task_curves(told))
        images = dict(zip(FIGURES, drawings, strict=True))
    weights = [stage.gate_weights for _, stage in sorted(lane.stages.items())]
    if any(weights):
        images["figures/gate_weights.png"] = figures.gate_weights(told, weights)
    mask = lane.mask(max(lane.stages, default=-1))
    if mask is not None:
        images["figures/domain_usage.png"] = domain_figures.domain_usage(lane.name, mask)
        images["figures/domain_overlap.png"] = domain_figures.domain_overlap(lane.name, mask)
        masks = [edit for edit, _ in lane.edits.values() if isinstance(edit, RefreshMask)]
        images["figures/mask_versions.png"] = domain_figures.mask_versions(lane.name, masks)
    return Page(images=images)


def run_page(history: RunHistory, run: str, experiment: str, lanes: Mapping[str, str]) -> Page:
    """Results and note of the whole run; ``lanes``: lane -> id of its MLflow run."""
    told = history.json()
    links = {name: f"#/experiments/{experiment}/runs/{lane}" for name, lane in lanes.items()}
    images = {"figures/methods.png": figures.methods(told)} if told["status"] == "done" else {}
    note = views.run_note(told, links, list(images), run)
    return Page(
        texts={"lanes.csv": views.lanes_csv(told)},
        images=images,
        tags={NOTE: note} | _grown(told["lanes"]),
    )


def _grown(lanes: Iterable[Json]) -> dict[str, str]:
    """The tag that says what growth was made because of, where there was some."""
    causes = views.causes(lanes)
    return {views.GROWN_BY: causes} if causes else {}


def _edits(pairs: Iterable[tuple[Edit, EditReport]]) -> str:
    return json.dumps([edit_json(*pair) for pair in pairs], indent=1)
