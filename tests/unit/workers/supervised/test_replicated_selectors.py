"""Selectors with running state: one state for all workers of a lane, and through a resume."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import tiny
from tests.pairs import Pair
from tests.unit.workers.supervised.loop import digests, stages
from workers.moe.growth.surgery import fingerprint
from workers.moe.routed import routed_layers
from workers.supervised.data_parallel import ALONE
from workers.supervised.trainer import SupervisedTrainer

STATE = {"percentile_batch": "mass", "loss_free": "load"}
"""Selector -> a buffer that is the same for any number of workers, up to rounding."""


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def state_of(replicas: Any, selector: str) -> tuple[str, dict[str, list[float]]]:
    """Fingerprint of a worker's model after an interval of four steps, buffers of its selector."""
    head = {"kind": "moe", "hidden": [24], "layer": {"selector": selector}}
    config = tiny(
        model={"experts": 3, "max_experts": 6, "head": head},
        training={"steps": 4, "intervals": 1, "batch": 24},
    )
    trainer = SupervisedTrainer(replicas)
    trainer.open(config.lanes[0].spec(), None)
    trainer.start(stages(config)[0])
    trainer.run_interval(1, 0)
    (layer,) = routed_layers(trainer.model).values()
    buffers = {name: x.reshape(-1).tolist() for name, x in layer.selector.named_buffers()}
    return fingerprint(trainer.model), buffers


@pytest.mark.parametrize("selector", STATE)
def test_two_workers_keep_one_state(pair: Pair, selector: str) -> None:
    one, other = pair.run(state_of, selector)
    assert one == other
    _, alone = state_of(ALONE, selector)
    name = STATE[selector]
    assert one[1][name] == pytest.approx(alone[name])
    assert any(alone[name])


@pytest.mark.parametrize("selector", STATE)
def test_taken_up_again_it_gives_the_same_bits(tmp_path: Path, selector: str) -> None:
    head = {"kind": "moe", "hidden": [24], "layer": {"selector": selector}}
    changes = {
        "model": {"experts": 3, "max_experts": 6, "head": head},
        "training": {"epochs": 1, "intervals": 2, "batch": 40},
    }
    assert digests(tmp_path, True, **changes) == digests(tmp_path, False, **changes)
