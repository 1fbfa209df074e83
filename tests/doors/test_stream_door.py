"""The door of streams: integer inputs of one axis that lie on disk, from outside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.doors.lane import run_killed, run_lane
from workers.contract import TaskSpec
from workers.streams import Part, Rows, Stream, TaskData

FAST = {"kind": "adamw", "lr": 1e-2}
KIND = "tests.doors.test_stream_door:Counters"


class Counters(Stream):
    """Rows of 12 small integers in files; the label is the place of the largest of the first 4."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Stream.Config):
        folder: str
        files: int = 3

    input_type = "integer"
    input_shape, outputs = (12,), 4

    def tasks(self):
        files = range(self.config.files)
        return tuple(TaskSpec(index=i, name=f"t{i}", domain="counters") for i in files)

    def load(self, task):
        file = Path(self.config.folder) / f"{task.index}.bin"
        x = np.memmap(file, dtype=np.int16, mode="r").reshape(-1, 12)
        y = np.asarray(x[:, :4]).argmax(1)
        train, test = Part(x[:300], y[:300]), Part(x[300:], y[300:])
        return TaskData.of(train=train, test=test, source=f"counters {task.index}")


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    for task in range(3):
        values = rng.integers(0, 9 + task, (400, 12)).astype(np.int16)
        values.tofile(tmp_path / f"{task}.bin")
    return {
        "stream": {"kind": KIND, "folder": str(tmp_path)},
        "model": {"head": {"kind": "moe", "hidden": [16]}},
        "training": {"epochs": 6, "intervals": 3, "batch": 32, "optimizer": FAST},
        "policies": {"growth": "periodic"},
        "lanes": [{"method": {"kind": "replay", "buffer": 40, "batch": 8}}],
    }


def test_a_stream_on_disk_goes_through_kills(tmp_path: Path, config: dict[str, Any]) -> None:
    straight = run_lane(tmp_path / "straight", config)
    assert straight.matrix[-1][-1] > 0.5, "it learns from integers"
    assert run_killed(tmp_path / "killed", config).essence == straight.essence


def test_its_data_are_read_from_disk_in_three_parts(config: dict[str, Any]) -> None:
    settings = {name: value for name, value in config["stream"].items() if name != "kind"}
    stream = Counters(Counters.Config(kind=KIND, **settings), 0)
    data = stream.data(stream.tasks()[0])
    assert all(isinstance(part.x, Rows) for part in data.parts.values())
    assert [len(part) for part in data.parts.values()] == [270, 30, 100]
    assert str(data.train.x[:2].dtype) == "torch.int64"
