"""The door of streams that say in which order samples come, and whose stages are not tasks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.config.file import ConfigError, check
from tests.doors.lane import run_killed, run_lane
from tests.fakes import tiny
from tests.unit.workers.supervised.loop import opened
from workers.contract import TaskSpec
from workers.streams import Part, Stream, TaskData

KIND = "tests.doors.test_ordered_door:Turning"


class Turning(Stream):
    """A line that turns while samples come: four stages of it, scored on its two ends."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Stream.Config):
        stages: int = 4

    input_shape, outputs = (2,), 2

    def tasks(self):
        names = (f"quarter {i + 1}" for i in range(self.config.stages))
        return tuple(TaskSpec(index=i, name=n, domain="line") for i, n in enumerate(names))

    def scored_tasks(self):
        ends = {"begin": 0.0, "end": 1.0}
        return tuple(
            TaskSpec(index=i, name=name, domain=name, settings={"at": at})
            for i, (name, at) in enumerate(ends.items())
        )

    def learnt_after(self):
        return 0, self.config.stages - 1

    def arrival(self, task, samples):
        return torch.arange(samples) % len(self.data(task).train)

    def load(self, task):
        first, last = task.index / self.config.stages, (task.index + 1) / self.config.stages
        train = self._part(np.linspace(first, last, 200), task.index)
        return TaskData.of(train=train, test=self._part(np.full(50, last), 9), source=task.name)

    def held_out(self, task):
        at = np.full(120, task.settings["at"])
        return {part: self._part(at, seed) for seed, part in ((7, "validation"), (8, "test"))}

    def _part(self, turned, seed):
        x = np.random.default_rng([self.seed, seed]).standard_normal((len(turned), 2))
        normal = np.stack([np.cos(np.pi * turned), np.sin(np.pi * turned)], 1)
        return Part(torch.tensor(x).float(), torch.tensor((x * normal).sum(1) > 0).long())


CONFIG: dict[str, Any] = {
    "stream": {"kind": KIND},
    "model": {"head": {"kind": "moe", "hidden": [16], "layer": {"expert": "linear"}}},
    "training": {"epochs": 4, "intervals": 3, "batch": 32, "optimizer": {"kind": "adamw"}},
    "policies": {"growth": {"kind": "periodic", "every": 2}},
    "lanes": [{"method": {"kind": "replay", "buffer": 40, "batch": 8}}],
}


def test_it_goes_through_kills_and_is_scored_on_its_own_tasks(tmp_path: Path) -> None:
    straight = run_lane(tmp_path / "straight", CONFIG)
    assert straight.lane["tasks"] == ["begin", "end"]
    assert straight.lane["learnt_after"] == [0, 3]
    assert [len(row) for row in straight.matrix] == [2] * 4
    first, last = straight.matrix[0], straight.matrix[-1]
    metrics = straight.lane["metrics"]
    assert metrics["acc.final"] == pytest.approx(sum(last) / 2)
    assert metrics["learning_accuracy"] == pytest.approx((first[0] + last[1]) / 2)
    assert metrics["bwt.gem"] == pytest.approx(last[0] - first[0])
    assert last[1] > last[0], "the line has turned right round"
    assert run_killed(tmp_path / "killed", CONFIG).essence == straight.essence


def test_samples_come_in_the_streams_order() -> None:
    stream = {"kind": KIND, "validation": 0.0}
    batches = opened(
        stream=stream, training={"batch": 64, "steps": 5, "intervals": 1}
    ).stage.batches
    taken = torch.cat([batches.next() for _ in range(5)])
    assert torch.equal(taken, torch.arange(320) % 200)


def test_joint_mixes_what_the_stream_orders() -> None:
    made = opened(1, stream={"kind": KIND}, lanes=[{"method": "joint"}])
    assert made.stage.batches.order is None
    assert len(made.stage.part) == 360


def test_what_cannot_keep_the_order_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.batches: stream .* in which order"):
        tiny(stream={"kind": KIND}, training={"batches": "domain"})
    waiting = {"kind": "progress_or_timeout"}
    with pytest.raises(ConfigError, match="keeps from policies"):
        check({**CONFIG, "name": "n", "policies": {"growth": waiting}}, "n")
