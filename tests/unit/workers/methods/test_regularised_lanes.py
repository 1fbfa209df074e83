"""Methods of regularisation and gradients in lanes: restarts, growth, workers, precision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from orchestrator.core.events import StageStarted
from tests.doors.lane import run_killed, run_lane, run_lanes
from tests.fakes import tiny
from tests.pairs import Pair
from tests.unit.workers.supervised.loop import (
    ROUTED,
    assert_unchosen_keeps_its_bits,
    digests,
    grow,
    opened,
    stages,
)
from workers.supervised.data_parallel import ALONE
from workers.supervised.trainer import SupervisedTrainer

METHODS: dict[str, dict[str, Any]] = {
    "ewc": {"kind": "ewc", "samples": 20},
    "online_ewc": {"kind": "online_ewc", "samples": 20},
    "si": {"kind": "si", "strength": 10.0},
    "mas": {"kind": "mas", "samples": 20},
    "lwf": {"kind": "lwf"},
    "agem": {"kind": "agem", "buffer": 40, "batch": 20},
}
SHORT = {"steps": 8, "intervals": 2, "batch": 24}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "half": {"precision": "bfloat16", "accumulate": 2, "clip": 1.0},
}


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", METHODS)
def test_taken_up_again_it_gives_the_same_bits(tmp_path: Path, kind: str, way: str) -> None:
    """After each interval of two stages, with a growth between them."""
    settings = {"model": ROUTED, "training": {**SHORT, **WAYS[way]}}
    lanes = [{"method": METHODS[kind]}]
    straight = digests(tmp_path, False, lanes=lanes, **settings)
    assert digests(tmp_path, True, lanes=lanes, **settings) == straight


def trained(replicas: Any, method: dict[str, Any], stream: dict[str, Any]) -> dict[str, Tensor]:
    """The model after two short stages, with an expert more in the second."""
    config = tiny(
        stream=stream,
        model={"experts": 2, "max_experts": 4, "head": {"kind": "moe", "hidden": [24]}},
        training={**SHORT, "intervals": 1, "optimizer": {"kind": "sgd", "lr": 0.05}},
        lanes=[{"method": method}],
    )
    trainer = SupervisedTrainer(replicas)
    trainer.open(config.lanes[0].spec(), None)
    for index, stage in enumerate(stages(config)[:2]):
        trainer.start(stage)
        if index:
            trainer.apply(grow(3, 1))
        trainer.run_interval(1, index)
    return {name: value.detach() for name, value in trainer.model.state_dict().items()}


@pytest.mark.parametrize("kind", METHODS)
def test_two_workers_train_as_one(pair: Pair, kind: str) -> None:
    stream = {"kind": "split", "dataset": "digits"}
    one, other = pair.run(trained, METHODS[kind], stream)
    alone = trained(ALONE, METHODS[kind], stream)
    plain = trained(ALONE, {"kind": "finetune"}, stream)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.allclose(one[name], alone[name], atol=2e-5) for name in one)
    assert any(not torch.allclose(plain[name], alone[name], atol=2e-5) for name in one)


@pytest.mark.parametrize("kind", METHODS)
def test_an_expert_that_no_token_chooses_is_left_alone(kind: str) -> None:
    changes = {
        "model": ROUTED,
        "training": {**SHORT, "fresh_optimizer": True},
        "lanes": [{"method": METHODS[kind]}],
    }
    trainer = opened(**changes)
    for n in (1, 2):
        trainer.run_interval(n, 0)
    trainer.start(stages(tiny(**changes))[1])
    assert_unchosen_keeps_its_bits(trainer)


def test_they_share_their_first_stage_and_end_as_they_would_alone(tmp_path: Path) -> None:
    raw = {
        "stream": {"kind": "split", "dataset": "digits", "classes_per_task": 5},
        "model": {"head": {"kind": "mlp", "hidden": [16]}},
        "training": {**SHORT, "diagnostics": []},
    }
    shared = {name: settings for name, settings in METHODS.items() if name != "si"}
    lanes = [{"name": name, "method": settings} for name, settings in shared.items()]
    together = run_lanes(tmp_path / "together", {**raw, "lanes": [{}, *lanes]})
    records = next(iter(together.values())).records
    assert sum(isinstance(record.event, StageStarted) for record in records) == len(lanes) + 2
    for lane in lanes:
        alone = run_lane(tmp_path / lane["name"], {**raw, "lanes": [lane]})
        found = together[f"{lane['name']}-s0"]
        assert found.digests[-1] == alone.digests[-1]
        assert found.matrix == alone.matrix


@pytest.mark.parametrize("kind", ["ewc", "lwf", "agem"])
def test_a_growing_lane_goes_through_kills(tmp_path: Path, kind: str) -> None:
    raw = {
        "stream": {"kind": "split", "dataset": "digits", "train_samples": 60, "task_known": True},
        "model": {"head": {"kind": "moe", "hidden": [16]}},
        "training": {"epochs": 2, "intervals": 3, "batch": 20},
        "policies": {"growth": "periodic"},
        "lanes": [{"method": METHODS[kind]}],
    }
    straight = run_lane(tmp_path / "straight", raw)
    assert run_killed(tmp_path / "killed", raw).essence == straight.essence
