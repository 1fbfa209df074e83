"""The models of a run as MLflow shows them: what each checkpoint holds and goes on from. Pure."""

from __future__ import annotations

import re

from orchestrator.report.lane_history import LaneHistory
from orchestrator.tracking.labels import Labels
from orchestrator.tracking.points import largest
from orchestrator.tracking.writes import LogModel
from workers.contract import CheckpointRef


def logged(
    labels: Labels, lane: LaneHistory, index: int, ref: CheckpointRef, adopted_from: str | None
) -> LogModel:
    """The model a final checkpoint holds, with all that traces it."""
    stage = lane.stages[index].spec if index >= 0 else None
    start = lane.plan.spec.start
    first = "untrained" if start is None else "start"
    first = first if lane.plan.spec.merged is None else "merged"
    tags = labels.lane_tags(lane, "model")
    params = {
        "stage": f"{index:02d}" if stage else first,
        "task": stage.task.name if stage else "none",
        "stage_id": stage.id if stage else "none",
        "method": lane.method,
        "variant": lane.label,
        "seed": str(lane.seed),
        "sha256": ref.digest,
        "uri": ref.uri,
        "bytes": str(ref.bytes),
        "config_digest": tags["config.digest"],
        "code_version": tags["git"],
        "ops_backend": lane.backend,
        "adopted_from": adopted_from or "none",
        "started_from": "none" if start is None else start.checkpoint.digest,
        "merged_by": lane.plan.spec.merged.way["kind"] if lane.plan.spec.merged else "none",
        "experts": str(largest(lane.shape)),
        "parameters": str(lane.shape.parameters) if lane.shape else "0",
    }
    parents, starts = _before(labels, lane, index)
    suffix = f"stage{index:02d}" if stage else first
    return LogModel(
        key=labels.key(lane, index) if stage else labels.key(lane),
        run=labels.key(lane, index) if stage else labels.key(lane),
        parents=parents,
        name=re.sub(r"[^\w-]", "_", f"{_prefix(labels, lane)}-{suffix}"),
        step=index + 1,
        params=params,
        tags={name: value for name, value in tags.items() if not name.startswith("mlflow.")},
        starts=starts,
    )


def _before(
    labels: Labels, lane: LaneHistory, index: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the model after a stage (-1 = the lane's first one) goes on from: keys of models
    here, and digests of other runs' models."""
    spec = lane.plan.spec
    if index >= 0:
        done = [n for n, stage in lane.stages.items() if n < index and stage.checkpoint]
        done = [] if lane.plan.course == "alone" else done
        return (_stage_key(labels, lane, max(done)) if done else labels.key(lane),), ()
    if spec.start is not None:
        return (), (spec.start.checkpoint.digest,)
    made_of = () if spec.merged is None else spec.merged.parents
    here = [
        _stage_key(labels, labels.history.lanes[parent.lane], parent.index)
        for parent in made_of
        if parent.lane is not None
    ]
    there = [parent.checkpoint.digest for parent in made_of if parent.checkpoint is not None]
    return tuple(here), tuple(there)


def _stage_key(labels: Labels, lane: LaneHistory, index: int) -> str:
    """Key of a stage and its model: those of the lane that trained it."""
    owner = lane.stages[index].trained_by
    return labels.key(lane if owner is None else labels.history.lanes[owner], index)


def _prefix(labels: Labels, lane: LaneHistory) -> str:
    trial = labels.trial
    return lane.name if trial is None else f"trial{trial.trial}-{trial.attempt}"
