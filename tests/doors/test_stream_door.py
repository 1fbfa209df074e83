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
TASKS, SAMPLES, WIDTH = 3, 300, 12


class Counters(Stream):
    """Rows of small integers in files; the label is the place of the largest of the first four."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Stream.Config):
        kind: str = KIND
        folder: str

    input_type = "integer"
    input_shape, outputs = (WIDTH,), 4

    def tasks(self):
        return tuple(TaskSpec(index=i, name=f"t{i}", domain="counters") for i in range(TASKS))

    def load(self, task):
        file = Path(self.config.folder) / f"{task.index}.bin"
        shape = (SAMPLES + 100, WIDTH)
        x = np.memmap(file, dtype=np.int16, mode="r", shape=shape)
        y = np.asarray(x[:, :4]).argmax(1)
        train, test = Part(x[:SAMPLES], y[:SAMPLES]), Part(x[SAMPLES:], y[SAMPLES:])
        return TaskData.of(train=train, test=test, source=f"counters {task.index}")


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    for task in range(TASKS):
        values = rng.integers(0, 9 + task, (SAMPLES + 100, WIDTH)).astype(np.int16)
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
    stream = Counters(Counters.Config(**settings), 0)
    data = stream.data(stream.tasks()[0])
    assert all(isinstance(part.x, Rows) for part in data.parts.values())
    assert [len(part) for part in data.parts.values()] == [270, 30, 100]
    assert str(data.train.x[:2].dtype) == "torch.int64"
