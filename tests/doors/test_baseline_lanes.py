"""Baselines of the real trainer: each task alone gives the bits of a model that saw no other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from orchestrator.config.file import check
from orchestrator.core.events import CheckpointSaved
from orchestrator.core.records import Record
from orchestrator.core.transitions import planned_stages
from tests.doors.lane import Outcome, default_losses, run_lanes
from workers import checkpoint
from workers.contract import CheckpointRef, Json
from workers.supervised.trainer import SupervisedTrainer

RAW: Json = {
    "stream": {"kind": "split", "dataset": "digits", "train_samples": 96, "test_samples": 40},
    "model": {"head": {"kind": "mlp", "hidden": [12]}},
    "training": {"steps": 6, "batch": 16, "intervals": 3},
    "lanes": [{"method": {"kind": "replay", "buffer": 40, "batch": 8}}],
    "baselines": ["scratch", "joint", "finetune", "random_init"],
}
ALONE = "replay/scratch-s0"


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return run_lanes(tmp_path_factory.mktemp("calm"), RAW)


def model(stage: Json) -> dict[str, torch.Tensor]:
    told = stage["checkpoint"]
    ref = CheckpointRef(uri=told["uri"], digest=told["digest"], seq=0, stage=None, bytes=0)
    return checkpoint.read(ref).tensors["model"]


@pytest.mark.parametrize("index", [0, 3])
def test_a_task_alone_is_learnt_as_by_a_model_that_saw_no_other(
    calm: dict[str, Outcome], index: int
) -> None:
    config = check({"name": "door", **RAW}, "door")
    plan = next(plan for plan in config.plan().lanes if plan.spec.lane == ALONE)
    stage = planned_stages(plan)[index]
    trainer = SupervisedTrainer()
    trainer.open(plan.spec, None)
    trainer.start(stage)
    for n in range(1, stage.intervals + 1):
        trainer.run_interval(n)
    found = model(calm[ALONE].lane["stages"][index])
    known = trainer.model.state_dict()
    assert found.keys() == known.keys()
    assert all(torch.equal(found[name], known[name]) for name in known)


def test_the_kinds_differ_where_they_should(calm: dict[str, Outcome]) -> None:
    stages = {name: found.lane["stages"] for name, found in calm.items()}
    assert len({told[0]["checkpoint"]["digest"] for told in stages.values()}) == 1
    assert len({told[4]["checkpoint"]["digest"] for told in stages.values()}) == len(stages) == 4
    metrics = calm["replay-s0"].lane["metrics"]
    assert {"intransigence", "fwt.scratch", "fwt.auc", "fwt.gem"} < metrics.keys()
    own, joint = calm["replay-s0"].matrix, calm["replay/joint-s0"].matrix
    lacks = sum(joint[j][j] - own[j][j] for j in range(5)) / 5
    assert metrics["intransigence"] == pytest.approx(lacks)


def test_killed_lanes_end_with_the_same_bits(calm: dict[str, Outcome], tmp_path: Path) -> None:
    def saves(record: Record) -> bool:
        event = record.event
        return isinstance(event, CheckpointSaved) and event.lane == ALONE and event.index == 2

    found = run_lanes(tmp_path, RAW, default_losses(), (saves, saves))
    for name, known in calm.items():
        assert found[name].essence == known.essence
