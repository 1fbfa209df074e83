"""The door of data sets: samples that are no images, with a validation part of their own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tests.doors.lane import run_killed, run_lane
from workers.streams import STREAMS, Dataset

FAST = {"kind": "adamw", "lr": 1e-2}
KIND = "tests.doors.test_dataset_door:Blobs"


class Blobs(Dataset):
    """Four clouds of points in the plane."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Dataset.Config):
        samples: int = 160

    label, shape, classes = "blobs", (2,), 4
    top, own_validation = None, True

    @cached_property
    def _parts(self):
        rng, y = np.random.default_rng(7), np.arange(self.config.samples) % 4
        centres = np.array([[0, 0], [0, 4], [4, 0], [4, 4]])
        return {
            part: (centres[y] + 0.5 * rng.standard_normal((len(y), 2)), y)
            for part in ("train", "validation", "test")
        }

    def labels(self, part):
        return self._parts[part][1]

    def inputs(self, part, index):
        return self._parts[part][0][index]


CONFIG: dict[str, Any] = {
    "stream": {"kind": "split", "dataset": KIND},
    "model": {
        "backbone": {"kind": "mlp", "hidden": [16]},
        "head": {"kind": "moe", "hidden": [16]},
    },
    "training": {"epochs": 20, "intervals": 3, "batch": 16, "optimizer": FAST},
    "policies": {"growth": "periodic"},
    "lanes": [{"method": "finetune"}],
}


def test_a_data_set_goes_through_kills(tmp_path: Path) -> None:
    straight = run_lane(tmp_path / "straight", CONFIG)
    assert straight.matrix[-1][-1] > 0.9
    assert run_killed(tmp_path / "killed", CONFIG).essence == straight.essence


def test_its_own_validation_part_is_used() -> None:
    stream = STREAMS["split"](STREAMS["split"].Config(dataset=Blobs.Config(kind=KIND)), 0)
    data = stream.data(stream.tasks()[0])
    assert [len(part) for part in data.parts.values()] == [80, 80, 80]
