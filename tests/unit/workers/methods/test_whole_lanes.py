"""Methods with a memory in whole lanes: killed and taken up, growing, and by two workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.events import IntervalDone
from tests.doors.lane import run_killed, run_lane
from tests.fakes import tiny
from tests.scenarios.test_two_workers import run
from tests.two_workers import essence, of
from tests.unit.workers.supervised.loop import stages
from workers.supervised.trainer import SupervisedTrainer

STREAM = {"kind": "split", "dataset": "digits", "classes_per_task": 5, "train_samples": 110}
MEMORY = {"buffer": 40, "batch": 9}
GROWING = [
    {"kind": "er_ace", **MEMORY, "storage": "class_balanced"},
    {"kind": "der++", **MEMORY, "storage": "task_balanced"},
    {"kind": "der", **MEMORY},
    {"kind": "icarl", "buffer": 40},
]
FROM_SCRATCH = [{"kind": "gdumb", "buffer": 40, "storage": "task_balanced"}, {"kind": "scratch"}]


def named(method: dict[str, Any]) -> str:
    return str(method["kind"])


@pytest.mark.parametrize("method", GROWING, ids=named)
def test_killed_and_grown_they_end_with_the_same_bits(
    tmp_path: Path, method: dict[str, Any]
) -> None:
    config: dict[str, Any] = {
        "stream": STREAM,
        "model": {"head": {"kind": "moe", "hidden": [16]}},
        "training": {"epochs": 3, "intervals": 3, "batch": 16, "accumulate": 2},
        "policies": {"growth": "periodic"},
        "lanes": [{"method": method}],
    }
    straight = run_lane(tmp_path / "straight", config)
    assert run_killed(tmp_path / "killed", config).essence == straight.essence


@pytest.mark.parametrize("method", FROM_SCRATCH, ids=named)
def test_stages_from_scratch_are_taken_up_half_way(tmp_path: Path, method: dict[str, Any]) -> None:
    training = {"intervals": 2, "epochs": 4, "batch": 20}
    config = tiny(stream=STREAM, training=training, lanes=[{"method": method}])
    lane = config.lanes[0].spec()

    def digests(again: bool) -> list[str]:
        trainer, found = SupervisedTrainer(), []
        trainer.open(lane, None)
        for spec in stages(config):
            trainer.start(spec)
            for n in (1, 2):
                trainer.run_interval(n)
                ref = trainer.save(str(tmp_path / f"{again}-{len(found)}"), len(found) + 1)
                found.append(ref.digest)
                if again:
                    trainer = SupervisedTrainer()
                    trainer.open(lane, ref)
        return found

    assert digests(True) == digests(False)


@pytest.mark.parametrize("method", [*GROWING, *FROM_SCRATCH], ids=named)
def test_two_workers_learn_what_one_learns(tmp_path: Path, method: dict[str, Any]) -> None:
    """Up to rounding, of a plain gradient step; both hold the same bits, or the run stops."""
    settings: dict[str, Any] = {
        "stream": STREAM,
        "model": {"head": {"kind": "mlp", "hidden": [16]}},
        "training": {
            "epochs": 2,
            "intervals": 2,
            "batch": 16,
            "optimizer": {"kind": "sgd", "lr": 0.1},
        },
        "lanes": [{"method": method}],
    }
    alone, pair = (run(tmp_path / str(n), settings, workers=n) for n in (1, 2))
    losses = [[e.report.metrics["loss"] for e in of(ev, IntervalDone)] for ev in (alone, pair)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    rows = [essence(events)[2] for events in (alone, pair)]
    for index, scores in rows[0].items():
        assert rows[1][index] == pytest.approx(scores, abs=0.02)
