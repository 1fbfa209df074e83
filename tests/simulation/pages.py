"""Pages without drawings: enough to see that the last one written is the last state's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.report.history import RunHistory
from orchestrator.report.lane_history import LaneHistory
from orchestrator.tracking.pages import Page


def stage_page(history: RunHistory, lane: LaneHistory, index: int) -> Page:
    edits = [edit.id for edit, _ in lane.stage_edits(lane.stages[index].id)]
    return Page(texts={"edits": str(edits)})


def lane_page(history: RunHistory, name: str, run: str, run_dir: Path) -> Page:
    lane = history.lanes[name]
    told: list[Any] = [lane.matrix(), lane.untrained(), sorted(lane.edits)]
    return Page(texts={"lane": str(told)}, tags={"rows": str(len(lane.rows))})


def lane_figures(history: RunHistory, name: str) -> Page:
    return Page(texts={"figures": str(history.lanes[name].matrix())})


def run_page(history: RunHistory, run: str, experiment: str, lanes: dict[str, str]) -> Page:
    return Page(texts={"run": history.status})
