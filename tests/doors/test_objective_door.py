"""The door of objectives: a regression of another kind, from outside, over arrays on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.doors.lane import run_killed, run_lane
from workers.supervised.objectives import Objective, Regression

FAST = {"kind": "adamw", "lr": 1e-2}
KIND = "tests.doors.test_objective_door:Huber"


class Huber(Objective):
    """Robust regression: the Huber loss; score = share of the targets met within the tolerance."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Objective.Config):
        tolerance: float = 0.5

    score_name = "hits"

    def check(self, y, outputs, where):
        Regression(Regression.Config()).check(y, outputs, where)

    def loss(self, outputs, y):
        return functional.huber_loss(outputs, y)

    def score(self, outputs, y):
        return ((outputs - y).abs() <= self.config.tolerance).float().mean(-1)

    def figures(self, outputs, y):
        return {"worst": (outputs - y).abs().amax(-1)}


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """Two linear maps of 6 numbers to 2, one after another, stored in 16 bits."""
    rng = np.random.default_rng(0)
    for name in ("first", "second"):
        (tmp_path / "arrays" / name).mkdir(parents=True)
        weight = rng.standard_normal((6, 2))
        for part, samples in (("train", 400), ("test", 100)):
            x = rng.standard_normal((samples, 6)).astype(np.float16)
            np.save(tmp_path / "arrays" / name / f"{part}_x.npy", x)
            np.save(tmp_path / "arrays" / name / f"{part}_y.npy", x @ weight)
    return {
        "stream": {"kind": "arrays", "path": str(tmp_path / "arrays"), "objective": KIND},
        "model": {"head": {"kind": "moe", "hidden": [32]}},
        "training": {"epochs": 20, "intervals": 3, "batch": 20, "optimizer": FAST},
        "policies": {"growth": "periodic"},
        "lanes": [{"method": "finetune"}],
    }


def test_an_objective_goes_through_kills(tmp_path: Path, config: dict[str, Any]) -> None:
    straight = run_lane(tmp_path / "straight", config)
    assert straight.matrix[-1][-1] > 0.6
    assert straight.matrix[-1][0] < straight.matrix[0][0], "numbers are forgotten like classes"
    assert run_killed(tmp_path / "killed", config).essence == straight.essence


def test_the_built_in_regression_learns_too(tmp_path: Path, config: dict[str, Any]) -> None:
    objective = {"kind": "regression", "scale": 2.0}
    config = {**config, "stream": {**config["stream"], "objective": objective}}
    assert run_lane(tmp_path / "straight", config).matrix[-1][-1] > 0.8


def test_its_score_is_a_share() -> None:
    objective = Huber(Huber.Config(kind=KIND))
    score = objective.score(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2))
    assert score.tolist() == [0.5]
