"""Lanes that share their first stage end as if each had trained it alone, whatever is killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.core.actions import (
    Action,
    ApplyEdit,
    OpenLane,
    RunInterval,
    SaveCheckpoint,
    StartStage,
)
from orchestrator.core.events import (
    CheckpointSaved,
    EvaluationDone,
    LaneOpened,
    StageStarted,
    WorkFailed,
)
from orchestrator.core.records import Record
from tests.doors.lane import Outcome, run_lanes
from workers import checkpoint
from workers.contract import CheckpointRef, Json

LINEAR: Json = {
    "model": {"head": {"layer": {"router": "linear"}}},
    "policies": {"router": "none", "phases": "none", "masks": "none"},
}
RAW: Json = {
    "stream": {
        "kind": "domains",
        "domains": [{"name": "turned", "rotate": 90.0}, {"name": "negative", "invert": True}],
        "train_samples": 96,
        "test_samples": 40,
    },
    "model": {
        "experts": 3,
        "head": {
            "kind": "moe",
            "hidden": [8],
            "layer": {
                "kind": "moe",
                "router": "adaptive",
                "selector": {"kind": "topk", "k": 2},
                "expert": {"kind": "bottleneck", "width": 4},
            },
        },
    },
    "training": {"steps": 6, "batch": 16, "intervals": 3, "diagnostics": ["cheap"]},
    "policies": {
        "router": {"kind": "adapt_router", "from_stage": 1},
        "phases": {"kind": "three_phases", "from_stage": 1, "stabilise_until": 0.5},
        "masks": {"kind": "usage_masks", "from_stage": 1},
    },
}
LANES: dict[str, Json] = {
    "finetune": {**LINEAR, "stream": {"order": "sequential"}},
    "replay": {
        **LINEAR,
        "method": {"kind": "replay", "buffer": 40, "batch": 8},
        "stream": {"order": "sequential"},
    },
    "joint": {**LINEAR, "method": "joint", "stream": {"order": "sequential"}},
    "des": {},
    "one": {**LINEAR, "stream": {"domains": [{"name": "negative", "invert": True}]}},
}


def raw(*names: str, **top: Any) -> Json:
    """A file of these lanes."""
    return {**RAW, **top, "lanes": [{"name": name, **LANES[name]} for name in names]}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Each lane as it is where nothing is shared."""
    folder = tmp_path_factory.mktemp("alone")
    return run_lanes(folder, raw(*LANES, share_stages=False))


def same(found: Outcome, known: Outcome) -> None:
    """The lane came to the same bits; of a shared stage, all but the method's own state."""
    assert found.digests[1:] == known.digests[1:]
    assert len(found.digests) == len(known.digests) >= 2
    assert found.matrix == known.matrix
    assert found.lane["initial"] == known.lane["initial"]
    assert found.edits == known.edits
    own = {key: told for key, told in known.intervals.items() if key[0] in started(found)}
    assert found.intervals == own
    told = ("id", "parent", "data", "training", "steps", "figures", "model_figures", "validation")
    for one, other in zip(found.lane["stages"], known.lane["stages"], strict=True):
        assert [one[name] for name in told] == [other[name] for name in told]
    first, known_first = first_checkpoint(found), first_checkpoint(known)
    assert set(first) == set(known_first) == {"model", "optimizer", "rng", "method"}
    for group in ("model", "optimizer", "rng"):
        assert first[group].keys() == known_first[group].keys()
        assert all(
            torch.equal(first[group][name], known_first[group][name]) for name in first[group]
        )


def started(found: Outcome) -> set[str]:
    """Ids of the stages that the lane trained itself."""
    return {
        record.event.stage.id
        for record in found.records
        if isinstance(record.event, StageStarted) and record.event.lane == found.lane["lane"]
    }


def first_checkpoint(found: Outcome) -> dict[str, dict[str, torch.Tensor]]:
    told = found.lane["stages"][0]["checkpoint"]
    ref = CheckpointRef(uri=told["uri"], digest=told["digest"], seq=0, stage=None, bytes=0)
    return checkpoint.read(ref).tensors


@pytest.mark.parametrize("order", [tuple(LANES), ("des", "replay", "finetune"), ("joint", "des")])
def test_a_shared_stage_is_trained_once_and_every_lane_ends_as_alone(
    tmp_path: Path, alone: dict[str, Outcome], order: tuple[str, ...]
) -> None:
    found = run_lanes(tmp_path, raw(*order))
    first, *others = (f"{name}-s0" for name in order)
    assert len(started(found[first])) == len(found[first].lane["stages"])
    for name in others:
        assert found[name].lane["stages"][0]["trained_by"] == first
        assert len(started(found[name])) == len(found[name].lane["stages"]) - 1
    for name, one in found.items():
        same(one, alone[name])
    scored = [
        (record.event.lane, record.event.index)
        for record in found[first].records
        if isinstance(record.event, EvaluationDone) and record.event.index < 1
    ]
    alike = {"finetune-s0": 0, "replay-s0": 0, "joint-s0": 0, "des-s0": 1, "one-s0": 2}
    assert len(scored) == 2 * len({alike[name] for name in found}), "tasks alike are scored once"


def losses() -> Callable[[Action], str | None]:
    """Each lane loses its worker at each kind of command once, and twice as it is opened."""
    seen: dict[Any, int] = {}

    def lose(action: Action) -> str | None:
        watched = OpenLane | StartStage | RunInterval | ApplyEdit | SaveCheckpoint
        if not isinstance(action, watched):
            return None
        name = action.spec.lane if isinstance(action, OpenLane) else action.lane
        key = (type(action), name)
        seen[key] = seen.get(key, 0) + 1
        wanted = {RunInterval: (4, "after"), ApplyEdit: (2, "after"), StartStage: (2, "after")}
        at, moment = wanted.get(type(action), (2, "before"))
        return moment if seen[key] == at else None

    return lose


def test_kills_of_workers_and_drivers_change_nothing(
    tmp_path: Path, alone: dict[str, Outcome]
) -> None:
    def first_stage_saved(record: Record) -> bool:
        event = record.event
        return isinstance(event, CheckpointSaved) and event.final and event.index == 0

    def follower_opened(record: Record) -> bool:
        return isinstance(record.event, LaneOpened) and record.event.lane == "replay-s0"

    def row_of_the_shared_stage(record: Record) -> bool:
        return isinstance(record.event, EvaluationDone) and record.event.index == 0

    def decided(record: Record) -> bool:
        return bool(record.edits)

    deaths = (first_stage_saved, follower_opened, row_of_the_shared_stage, decided)
    raw_file = raw(*LANES, failures={"worker_lost": {"retries": 99, "then": "fail_lane"}})
    found = run_lanes(tmp_path, raw_file, losses(), deaths)
    lost = {r.event.lane for r in found["des-s0"].records if isinstance(r.event, WorkFailed)}
    assert lost == set(found)
    for name, one in found.items():
        same(one, alone[name])
        assert one.lane["stages"][0]["trained_by"] == (
            None if name == "finetune-s0" else "finetune-s0"
        )
