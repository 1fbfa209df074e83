"""ESFT: the relevant experts train, nothing else moves, and the choice travels with the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from orchestrator.core.controller import Controller
from orchestrator.core.transitions import stage_spec
from tests.fakes import tiny
from workers import checkpoint
from workers.methods import METHODS
from workers.methods.esft import cumulative
from workers.supervised.trainer import SupervisedTrainer

CONFIG = {
    "stream": {"kind": "domains", "train_samples": 80, "test_samples": 20},
    "training": {"epochs": 2, "intervals": 2},
    "model": {
        "experts": 6,
        "head": {
            "kind": "moe",
            "hidden": [16],
            "layer": {
                "kind": "moe",
                "selector": "topk",
                "expert": {"kind": "bottleneck", "width": 4},
            },
        },
    },
}


def test_experts_are_taken_best_first_until_the_share_is_reached() -> None:
    score = torch.tensor([0.1, 0.4, 0.3, 0.2])
    assert cumulative(score, 0.2) == [1]
    assert cumulative(score, 0.7) == [1, 2]
    assert cumulative(score, 0.71) == [1, 2, 3]
    assert cumulative(score, 1.0) == [0, 1, 2, 3]
    assert cumulative(torch.tensor([0.5, 0.5]), 0.5) == [0], "of equals the lower"


def test_scores_by_token_and_by_gate() -> None:
    gates = torch.tensor([[0.9, 0.1, 0.0], [0.6, 0.0, 0.4]])
    token = METHODS["esft_token"](METHODS["esft_token"].Config(), 0)
    gate = METHODS["esft_gate"](METHODS["esft_gate"].Config(), 0)
    assert token.score(gates).tolist() == [0.5, 0.25, 0.25]
    assert gate.score(gates).tolist() == pytest.approx([0.75, 0.05, 0.2])


@pytest.mark.parametrize("method", ["esft_token", "esft_gate"])
def test_only_the_chosen_experts_move_also_after_a_restart(method: str, tmp_path: Path) -> None:
    config = tiny(**CONFIG, lanes=[{"method": method}])
    lane = next(iter(Controller(config).start().lanes.values()))
    trainer = SupervisedTrainer()
    trainer.open(lane.spec, None)
    base = stage_spec(lane, 0, None)
    trainer.start(base)
    for n in (1, 2):
        trainer.run_interval(n)
    before = trainer.save(str(tmp_path / "base"), 1)
    told = trainer.start(stage_spec(lane, 1, base.id))
    trainer.run_interval(1)
    middle = trainer.save(str(tmp_path / "middle"), 2)
    trainer.run_interval(2)
    straight = trainer.save(str(tmp_path / "straight"), 3)
    again = SupervisedTrainer()
    again.open(lane.spec, middle)
    again.run_interval(2)
    assert again.save(str(tmp_path / "again"), 3).digest == straight.digest
    chosen = set(json.loads(told.fields["experts.head.layers.0"]))
    assert 0 < len(chosen) < 6
    old, new = (checkpoint.read(ref).tensors["model"] for ref in (before, straight))
    moved = {name for name in old if not old[name].equal(new[name])}
    assert moved
    assert {int(name.split(".experts.")[1].split(".")[0]) for name in moved} <= chosen
